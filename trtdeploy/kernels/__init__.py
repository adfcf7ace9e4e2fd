"""Operations that have GPU kernels: what they compute, and how their kernels are launched. No kernel code is here."""
