from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Announcement(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: str
    def __init__(self, token: _Optional[str] = ...) -> None: ...

class Held(_message.Message):
    __slots__ = ("token", "certificates", "waiting", "problem")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    token: str
    certificates: int
    waiting: int
    problem: str
    def __init__(self, token: _Optional[str] = ..., certificates: _Optional[int] = ..., waiting: _Optional[int] = ..., problem: _Optional[str] = ...) -> None: ...
