"""The controller of Sao (2026), proposition 5.2, as it is written, in float64."""

import numpy as np


def jacobian(logits, theta, h=1e-6):
    """The derivative of all logits in all parameters, by central differences."""
    steps = h * np.eye(len(theta))
    return np.stack([(logits(theta + e) - logits(theta - e)) / (2 * h) for e in steps])


def controlled(theta, p, logits, r_target=1.0, mode="cap"):
    """The scaled step, and r of the step that was proposed."""
    tau = np.linalg.norm(p)
    v = p / tau
    a = np.tensordot(v, jacobian(logits, theta), axes=1)
    spread = a.max(-1) - a.min(-1)
    rho = np.pi / spread.max()
    s = r_target * rho / tau
    return (s if mode == "set" else min(1.0, s)) * p, tau / rho
