"""What a checkpoint folder says, file by file."""
