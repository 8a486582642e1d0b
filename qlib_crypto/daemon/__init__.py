"""The daemon: what runs on time without anybody watching; its parts are imported where they are used."""
