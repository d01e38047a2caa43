"""The papers' experiments as arms over one loop."""

from aftertune.studies._careless_money import ARMS, OPTIONS, Arm, Demo, demo, rebuild_demo_report

__all__ = ["ARMS", "OPTIONS", "Arm", "Demo", "demo", "rebuild_demo_report"]
