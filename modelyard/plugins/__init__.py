"""The API of plugins: an engine or a device adapter imports what it needs from here."""

from modelyard.host.settings import Settings
from modelyard.plugins.devices import DeviceAdapter, as_token
from modelyard.plugins.engines import (
    Engine,
    EngineApi,
    EngineProblem,
    ModelFiles,
    ServerCommand,
    engine_environment,
    minimal_environment,
)
from schemas.base import Format
from schemas.devices import Device, DeviceKind, DeviceProcess, Host
from schemas.instances import EngineOffer, Placement
from schemas.models import Mode, ModelSpec

__all__ = [
    "Device",
    "DeviceAdapter",
    "DeviceKind",
    "DeviceProcess",
    "Engine",
    "EngineApi",
    "EngineOffer",
    "EngineProblem",
    "Format",
    "Host",
    "Mode",
    "ModelFiles",
    "ModelSpec",
    "Placement",
    "ServerCommand",
    "Settings",
    "as_token",
    "engine_environment",
    "minimal_environment",
]
