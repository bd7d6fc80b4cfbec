"""The promises, each checked by a program: killed processes, full disks, second owners."""
