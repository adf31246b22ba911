"""What an accuracy run leaves: the methods, one sample per problem and repeat, and the folder."""
