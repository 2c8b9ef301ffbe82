"""Discovery messages for Home Assistant and whatever else reads them: devices appear by themselves.

Device-based MQTT discovery (Home Assistant 2024.11 and later): one retained message per gateway and per asset, at
``<prefix>/device/<gateway>/<asset>/config``, says on which topics its values are and how to read them.
"""

from __future__ import annotations

from typing import Any, Final

from edge_agent import __version__
from edge_agent.adapters.mqtt import Broker
from edge_agent.schemas.messages import dump
from edge_agent.schemas.topics import Topics

MOST_ASSETS: Final = 4096


class Discovery:
    """Tells of each asset once per connection.

    Args:
        prefix: of the topics; Home Assistant's default is ``homeassistant``.
    """

    def __init__(self, prefix: str, gateway: str, topics: Topics, broker: Broker) -> None:
        self._prefix, self._gateway, self._topics, self._broker = prefix, gateway, topics, broker
        self._told: set[str] = set()

    def again(self) -> None:
        """After a new connection: tell of the gateway now, and of each asset when its next window comes."""
        self._told.clear()
        status = self._topics.status
        parts = {
            "release": _sensor("Release", status, "value_json.release[:12]", entity_category="diagnostic"),
            "masked": _sensor("Forgotten classes", status, "value_json.masked | join(', ') or 'none'"),
            "answered": _sensor(
                "Windows answered", status, "value_json.counters.windows_answered | default(0)",
                state_class="total_increasing", entity_category="diagnostic",
            ),
        }  # fmt: skip
        self._publish("gateway", self._gateway, parts)

    def tell(self, asset: str) -> None:
        """An asset has sent a window."""
        if asset in self._told or len(self._told) >= MOST_ASSETS:
            return
        self._told.add(asset)
        topic = self._topics.diagnosis(asset)
        unusual = "'ON' if 'unusual' in value_json.flags else 'OFF'"
        parts = {
            "class": _sensor("Diagnosis", topic, "value_json.class", json_attributes_topic=topic),
            "confidence": _sensor(
                "Confidence", topic, "(value_json.confidence * 100) | round(1)",
                unit_of_measurement="%", state_class="measurement",
            ),
            "unusual": _sensor("Unusual", topic, unusual, platform="binary_sensor", device_class="problem"),
        }  # fmt: skip
        self._publish(f"asset_{_level(asset)}", asset, parts, via_device=self._id("gateway"))

    def _publish(self, object_id: str, name: str, parts: dict[str, dict[str, Any]], **device: str) -> None:
        id_ = self._id(object_id)
        about = {"identifiers": [id_], "name": name, "manufacturer": "edge-agent", "sw_version": __version__, **device}
        content = {
            "device": about,
            "origin": {"name": "edge-agent", "sw_version": __version__},
            "availability": [{"topic": self._topics.status, "value_template": "{{ value_json.state }}"}],
            "components": {key: {**part, "unique_id": f"{id_}_{key}"} for key, part in parts.items()},
        }
        topic = f"{self._prefix}/device/{_level(self._gateway)}/{object_id}/config"
        self._broker.publish(topic, dump(content), retain=True)

    def _id(self, object_id: str) -> str:
        return f"edge-agent_{_level(self._gateway)}_{object_id}"


def _sensor(name: str, topic: str, template: str, platform: str = "sensor", **more: str) -> dict[str, Any]:
    return {
        "platform": platform,
        "name": name,
        "state_topic": topic,
        "value_template": f"{{{{ {template} }}}}",
        **more,
    }


def _level(name: str) -> str:
    """A name as Home Assistant lets it stand in a topic, A-Z a-z 0-9 _ and -; no two become one."""
    return name.replace("_", "__").replace(".", "_d")
