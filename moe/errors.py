"""The errors of what a user can mend: a value, a file, a machine that is too small."""


class UserError(ValueError):
    """Says in a line what was expected, what came and what to change.

    Programs show it without a traceback. Any other error is a mistake of the code, or of a library.
    """


class NotFiniteError(UserError, FloatingPointError):
    """Training produced NaN or infinity, or a gradient beyond what was allowed."""
