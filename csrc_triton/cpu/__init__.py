"""The kernels of a CPU: C sources, compiled once on the machine that runs them.

A module here has the functions of the Triton module with the same name, and hands their tensors to
the C file with the same name. What a kernel does not take (fp16, pages of another layout or size,
head dims above 256) is computed by the plain reference.
"""
