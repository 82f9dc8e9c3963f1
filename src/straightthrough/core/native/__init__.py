"""What kernels share: headers for those on the CPU, modules for those on GPUs."""
