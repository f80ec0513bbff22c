"""Stage 3: from an orthogonal update to a normalized or clamped one."""

from optax_ortho.normalizers.dual_norm import by_dual_norm as by_dual_norm

__all__ = ["by_dual_norm"]
