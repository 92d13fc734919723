"""The network and its heads, written once over an abstract emitter that every format implements."""
