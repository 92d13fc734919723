"""The quantization plans: integers, scales and zero points of every GEMM, which all formats write out."""
