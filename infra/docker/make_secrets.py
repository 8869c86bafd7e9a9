"""Make the keys that compose.yaml needs, in the folder `secrets` beside it. Those that are there stay."""

import secrets
from pathlib import Path

FOLDER = Path(__file__).parent / "secrets"
FILES = {
    "ray-token": "{}",
    "grafana-password": "{}\n",
    "s3.env": "AWS_ACCESS_KEY_ID=lake\nAWS_SECRET_ACCESS_KEY={}\n",
}


def main(folder: Path) -> None:
    """Nobody else may enter the folder; its files can be read by the users of the containers, who see them alone."""
    folder.mkdir(mode=0o700, exist_ok=True)
    for name, text in FILES.items():
        path = folder / name
        if not path.exists():
            path.write_text(text.format(secrets.token_hex(32)), encoding="ascii")
            path.chmod(0o644)


if __name__ == "__main__":
    main(FOLDER)
