"""Measurements of the training with one optimizer."""

import dataclasses
import statistics

REFERENCE = "adamw"


@dataclasses.dataclass
class History:
    """The measurements of one optimizer with one seed."""

    name: str
    title: str
    learning_rate: float
    seed: int
    compile_seconds: float = 0.0
    state_bytes: int = 0
    train_loss: list[float] = dataclasses.field(default_factory=list)
    step_seconds: list[float] = dataclasses.field(default_factory=list)
    gradient_seconds: list[float] = dataclasses.field(default_factory=list)
    # (number of steps, their seconds, validation loss)
    validation: list[tuple[int, float, float]] = dataclasses.field(default_factory=list)

    def add_validation(self, loss: float) -> None:
        point = len(self.step_seconds), sum(self.step_seconds), loss
        self.validation.append(point)

    def first_below(self, loss: float) -> tuple[int, float] | None:
        """Steps and seconds to the first validation at or below a loss."""
        for steps, seconds, reached in self.validation:
            if reached <= loss:
                return steps, seconds
        return None

    def optimizer_share(self) -> float | None:
        """The fraction of a step outside its gradient, from the medians of both."""
        if not self.gradient_seconds:
            return None
        gradient = statistics.median(self.gradient_seconds)
        return 1 - gradient / statistics.median(self.step_seconds)
