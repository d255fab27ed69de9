"""Writes the Homebrew formula of a release: `python -m deploy.homebrew dist/mlx_gateway-0.2.0.tar.gz [URL]`.

Without a URL it names the file where it lies, which a tap of your own can install from. It resolves packages when it
is installed, which homebrew-core does not take and a tap does. It has not been run on a Mac yet: words are checked,
and the syntax where there is Ruby.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path
from typing import Final

_RELEASE: Final = re.compile(r"mlx_gateway-(\d[\w.]*)\.tar\.gz$")

FORMULA: Final = """\
class MlxGateway < Formula
  include Language::Python::Virtualenv

  desc "One URL in front of every model on every Mac you own, for coding agents"
  url "{url}"
  version "{release}"
  sha256 "{sha256}"
  license "MIT"

  depends_on arch: :arm64
  depends_on :macos
  depends_on "python@3.13"
  depends_on "redis"

  def install
    virtualenv_create(libexec, "python3.13", without_pip: false)
    system libexec/"bin/python", "-m", "pip", "install", "#{{buildpath}}[mlx,share]"
    bin.install_symlink libexec/"bin/mlx-gateway"
    generate_completions_from_executable(bin/"mlx-gateway", "completion")
  end

  service do
    run [opt_bin/"mlx-gateway", "up"]
    keep_alive crashed: true
    process_type :interactive
    working_dir var
    environment_variables PATH: std_service_path_env
    log_path var/"log/mlx-gateway.log"
    error_log_path var/"log/mlx-gateway.log"
  end

  def caveats
    <<~EOS
      brew services start mlx-gateway keeps it running; what it serves is in ~/.mlx-gateway, its log in
      ~/.mlx-gateway/logs, where `mlx-gateway logs` finds it. In a terminal: mlx-gateway up
    EOS
  end

  test do
    port = free_port
    up = spawn bin/"mlx-gateway", "up", "--engine", "echo", "--port", port.to_s, "--state", testpath/"state"
    asked = "curl --silent --retry 30 --retry-connrefused http://127.0.0.1:#{{port}}/health"
    assert_match "ok", shell_output(asked)
  ensure
    Process.kill "TERM", up
    Process.wait up
  end
end
"""


def render(source: Path, url: str = "") -> str:
    """Raises `ValueError` for a file that is no release's sources."""
    found = _RELEASE.search(source.name)
    if found is None:
        raise ValueError(f"{source}: expected mlx_gateway-<release>.tar.gz")
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    return FORMULA.format(url=url or source.resolve().as_uri(), release=found[1], sha256=digest)


def main(words: list[str]) -> int:
    path = Path(words[0])
    written = path.with_name("mlx-gateway.rb")
    written.write_text(render(path, *words[1:2]))
    sys.stdout.write(f"{written}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
