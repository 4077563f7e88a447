"""What is measured: problems and kernels. Imports torch and triton, never suite and never pytest."""
