"""Which method can train a student of which base."""

FROM_NOTHING = "it makes the compact base's own network from nothing, and this base comes trained"
BLIND = "its teacher must see the low-quality image and start from it; this base's sees noise and a text"
CLEAN = "its directions are differences of noise or velocity, and this base's network predicts z_0"
OBSTACLES = {
    "teacher": {"sd3": FROM_NOTHING, "sd21": FROM_NOTHING, "resshift": FROM_NOTHING},
    "tsdsr": {"resshift": CLEAN},
    "tadsr": {"sd3": BLIND, "sd21": BLIND},
    "sinsr": {"sd3": BLIND, "sd21": BLIND},
}
"""Method -> base, by their names in METHODS and BASES -> reason."""


def obstacle(method: str, base: str) -> str | None:
    """Why the method cannot train a student of the base; None if it can."""
    return OBSTACLES.get(method, {}).get(base)
