"""The one family of errors the protocol raises."""


class ProtocolError(Exception):
    """A rule of the protocol was broken by the caller: nothing was changed."""


class IllegalTransitionError(ProtocolError):
    """A status was asked to move where it may not go."""


class IllegalStepError(ProtocolError):
    """A room was asked to take a step that has no place in its phase."""


class OwnershipError(ProtocolError):
    """A block was used, freed or fenced by somebody who does not own it."""


class CodecError(ProtocolError):
    """A control frame could not be understood."""
