"""What printed C++ kernels need: the skeleton that they are put into, the compiler, its cache, and the call."""
