"""Where a model's files are brought, if no node that has them can run it. Pure."""

from services.supervisor.planning.room import Room
from services.supervisor.planning.world import Fetch, World


def best(world: World, name: str, room: Room) -> Fetch | None:
    """The way to a node on which it could start at once, else to one on which it could start at all."""
    possible = [
        way
        for way in world.fetches.get(name, ())
        if (node := world.nodes.get(way.option.node)) is not None
        and not node.cordoned
        and room.could_ever(way.option)
    ]
    return next((way for way in possible if room.fits(way.option)), next(iter(possible), None))
