"""Recorded files of graphics cards in /sys and /proc."""

from pathlib import Path

GIB = 2**30

RADEON_7900 = {
    "vendor": "0x1002",
    "device": "0x744c",
    "uevent": "DRIVER=amdgpu\nPCI_CLASS=30000\nPCI_ID=1002:744C\nPCI_SLOT_NAME=0000:03:00.0",
    "unique_id": "f2d0a1b3c4e59687",
    "product_name": "",
    "mem_info_vram_total": str(24 * GIB),
    "mem_info_vram_used": "1073741824",
    "gpu_busy_percent": "37",
    "current_link_speed": "16.0 GT/s PCIe",
    "current_link_width": "16",
    "hwmon/hwmon3/name": "amdgpu",
    "hwmon/hwmon3/temp1_input": "54000",
    "hwmon/hwmon3/temp2_input": "66000",
    "hwmon/hwmon3/power1_average": "87000000",
    "hwmon/hwmon3/power1_cap": "327000000",
    "hwmon/hwmon3/fan1_input": "825",
    "hwmon/hwmon3/fan1_max": "3300",
    "hwmon/hwmon3/freq1_input": "2265000000",
    "hwmon/hwmon3/freq2_input": "1249000000",
}
ARC_B580 = {
    "vendor": "0x8086",
    "uevent": "DRIVER=xe\nPCI_CLASS=30000\nPCI_ID=8086:E20B\nPCI_SLOT_NAME=0000:04:00.0",
    "tile0/physical_vram_size_bytes": str(12 * GIB),
    "tile0/gt0/freq0/act_freq": "2850",
    "current_link_speed": "16.0 GT/s PCIe",
    "current_link_width": "8",
    "hwmon/hwmon5/name": "xe",
    "hwmon/hwmon5/temp2_input": "48000",
    "hwmon/hwmon5/energy1_input": "1000000",
    "hwmon/hwmon5/power1_max": "190000000",
}
ARC_A770 = {
    "vendor": "0x8086",
    "uevent": "DRIVER=i915\nPCI_SLOT_NAME=0000:04:00.0",
    "hwmon/hwmon5/name": "i915",
}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def add_card(root: Path, number: int, files: dict[str, str], address: str) -> Path:
    """Write the files of a card; returns the folder of its PCI device."""
    device = root / "sys/devices/pci0000:00" / address
    write(device, files)
    drm = root / "sys/class/drm" / f"card{number}"
    drm.mkdir(parents=True)
    (drm / "device").symlink_to(device)
    # Outputs are listed beside cards.
    (root / "sys/class/drm" / f"card{number}-DP-1").mkdir()
    return device


def add_client(root: Path, pid: int, number: int, text: str) -> None:
    """Write the files of a process that has opened a card."""
    process = root / "proc" / str(pid)
    (process / "fd").mkdir(parents=True, exist_ok=True)
    (process / "fdinfo").mkdir(exist_ok=True)
    (process / "fd" / str(number)).symlink_to("/dev/dri/renderD128")
    (process / "fdinfo" / str(number)).write_text(text)


AMD_CLIENT = """pos:	0
flags:	02100002
drm-driver:	amdgpu
drm-client-id:	{client}
drm-pdev:	0000:03:00.0
pasid:	32770
drm-memory-vram:	{kib} KiB
drm-memory-gtt: 	4096 KiB
drm-engine-gfx:	123456 ns
"""
XE_CLIENT = """pos:	0
drm-driver:	xe
drm-client-id:	7
drm-pdev:	0000:04:00.0
drm-total-system:	64
drm-total-vram0:	3 MiB
drm-resident-vram0:	2048 KiB
"""
