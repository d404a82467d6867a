"""How arrays lie on a mesh of devices, and how processes agree."""
