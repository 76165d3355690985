"""Rollouts: routes that go over to another target by steps, and back by themselves."""
