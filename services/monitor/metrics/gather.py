"""All samples of one moment: a pure function of the world, for Prometheus, history and alert rules."""

from schemas.metrics import Sample
from services.monitor.metrics.broker import broker_samples
from services.monitor.metrics.devices import device_samples, tenant_samples
from services.monitor.metrics.instances import activity_samples, instance_samples, model_samples
from services.monitor.metrics.work import download_samples, node_samples, queue_samples
from services.monitor.metrics.world import World


def gather(world: World) -> list[Sample]:
    """Every metric of `schemas.metric_names` that can be told now."""
    samples = [Sample(name="yard_info", value=1.0, labels={"version": world.version})]
    samples += node_samples(world.nodes, world.expected)
    models = {instance.instance: instance.model for instance in world.instances.values()}
    for device in world.devices.values():
        samples += device_samples(device)
        samples += tenant_samples(device, models)
    samples += instance_samples(world.instances.values())
    for activity in world.activity.values():
        samples += activity_samples(activity)
    samples += model_samples(world.instances.values(), world.waits.values(), world.now)
    samples += queue_samples(world.queue)
    samples += world.lives.samples()
    samples += world.requests.samples(world.now)
    samples += download_samples(world.downloads.values())
    samples += broker_samples(world.broker)
    samples += world.more
    return samples
