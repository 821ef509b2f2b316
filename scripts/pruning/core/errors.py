"""The one error that stages turn into a single line for the user."""


class InputError(ValueError):
    """Bad input that the user can mend: the message names the key, file or value and what to do."""
