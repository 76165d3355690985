"""Configuration for Envoy over delta ADS: a cache of resources, and the streams that bring every Envoy up to it."""
