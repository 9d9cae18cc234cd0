"""The lambda that leaves a share of the groups at zero, found while training."""

import math

START, HELD = 0.1, 0.75  # shares of the epochs between which lambda is adapted
RAMP = 0.5  # share of that time over which the goal rises to the target
GAIN, MOST = 2.0, 0.25  # powers of ten of lambda for each unit of missing sparsity, and at most in one epoch
LARGEST = 1e3  # lambda that no network needs
NEAR = 0.05  # a target is reached if the share is this near


class Controller:
    """Adapts lambda after each epoch to the sparsity that training shows, slowly, and then holds it.

    The first tenth of the epochs trains with the lambda given. Then log10(lambda) moves in proportion to goal minus
    sparsity, the goal rising linearly to the target; after three quarters of the epochs lambda stays. No validation or
    test image has a part in it, and nothing is set to zero but by the proximal step.

    target: share in (0, 1) of groups (or weights) that are to be zero. epochs: of the training. held: share of them
    after which lambda stays.
    """

    def __init__(self, target, epochs, held=HELD):
        self.target, self.epochs = target, epochs
        self.first, self.held = math.ceil(START * epochs), math.floor(held * epochs)

    def next(self, epoch, lam, reached):
        """Lambda of the next epoch, after `epoch` (from 0) ended with the sparsity `reached`."""
        done = epoch + 1
        if not self.first <= done < self.held:
            return lam
        goal = self.target * min(1.0, (done - self.first + 1) / (RAMP * (self.held - self.first)))
        step = max(-MOST, min(MOST, GAIN * (goal - reached)))
        return min(lam * 10**step, LARGEST)

    def report(self, reached, lam):
        """What a record says of the target (dict): asked, reached, epoch from which lambda was held, what failed."""
        missed = ""
        if abs(reached - self.target) > NEAR:
            why = "its largest value" if lam >= LARGEST else f"{lam:.1e}"
            missed = (
                f"{reached:.3f} of {self.target:g} reached: lambda was held at {why} from epoch {self.held} of "
                f"{self.epochs}; train for more epochs"
            )
        return {"asked": self.target, "reached": reached, "held": self.held, "missed": missed}
