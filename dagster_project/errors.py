"""What Dagster keeps of an error, in one line."""


def innermost(error) -> str:
    """Message of the error that the others were raised from. error: Dagster's SerializableErrorInfo, None for none."""
    if error is None:
        return "no error was recorded"
    while error.cause is not None:
        error = error.cause
    return " ".join(error.message.split())
