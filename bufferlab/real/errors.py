"""The errors of a measured run that more than one wing raises or catches. This module imports nothing."""


class EngineError(RuntimeError):
    """The engine refused something, or a run broke; the message is one sentence that says what and why."""


def in_words(error: Exception) -> str:
    """What an error says, as a part of a sentence: of the operating system's the words without the number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror} ({error.filename})" if error.filename else error.strerror
    return str(error)


class EngineMissing(EngineError):  # noqa: N818 - says what is the matter better than ...Error
    """The engine cannot be imported; the message ends with the command that mends it."""


class EngineStartError(EngineError):
    """The ranks did not start as asked, for instance over another transport; nothing was run."""
