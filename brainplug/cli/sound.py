"""brainplug sound: makes sound to pre-train on."""

import argparse

from brainplug.synthetic.sound.render import render


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("folder")
    parser.add_argument("--spoken_clips", type=int, default=9000)
    parser.add_argument("--event_clips", type=int, default=2000)
    parser.add_argument("--recordings_folder", default="/", help="where Debian's packages are installed")
    parser.add_argument("--recordings", type=int, help="how many recordings are used; by default all")
    parser.add_argument("--seed", type=int, default=1000)


def run(options: argparse.Namespace) -> int:
    """Writes the clips and prints how many they are."""
    made = render(
        options.folder, options.spoken_clips, options.event_clips, options.recordings_folder, options.seed,
        options.recordings,
    )  # fmt: skip
    counts = ", ".join(f"{count} {kind}" for kind, count in made["clips"].items())
    print(f"{options.folder}: {counts} clips, {made['hours']:.2f} hours, {made['left_out']} left out")
    return 0
