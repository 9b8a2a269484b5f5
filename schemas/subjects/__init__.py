"""All subjects of the wire, gathered from the modules of this package. They are declared nowhere else."""

from schemas.subject import AnySubject, Command, Subject
from schemas.subjects.accounts import *
from schemas.subjects.alerts import *
from schemas.subjects.downloads import *
from schemas.subjects.inference import *
from schemas.subjects.library import *
from schemas.subjects.nodes import *
from schemas.subjects.registry import *

ALL: tuple[AnySubject, ...] = tuple(value for value in globals().values() if isinstance(value, Subject))
COMMANDS: tuple[Command, ...] = tuple(subject for subject in ALL if isinstance(subject, Command))  # type: ignore[type-arg]
