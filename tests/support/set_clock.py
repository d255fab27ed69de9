"""Sets the wall clock of processes under test while they run, all at once, and leaves their monotonic one alone: a
small library in front of the C library's, built with the machine's compiler. (libfaketime stops redis-server and
sleeping interpreters.)"""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

COMPILER = shutil.which("cc") if sys.platform == "linux" else None
_SOURCE = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
struct both { long seconds, rest; };
static long none;
static volatile long *ahead;
static long seconds_ahead(void) {
  if (!ahead) {
    const char *path = getenv("CLOCK_AHEAD");
    int file = path ? open(path, O_RDONLY) : -1;
    void *found = file < 0 ? MAP_FAILED : mmap(0, sizeof none, PROT_READ, MAP_SHARED, file, 0);
    if (file >= 0) close(file);
    ahead = found == MAP_FAILED ? &none : found;
  }
  return *ahead;
}
int clock_gettime(clockid_t which, struct timespec *now) {
  int failed = syscall(SYS_clock_gettime, which, now);
  if (!failed && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) now->tv_sec += seconds_ahead();
  return failed;
}
int gettimeofday(struct both *told, void *zone) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  told->seconds = now.tv_sec;
  told->rest = now.tv_nsec / 1000;
  return 0;
}
time_t time(time_t *told) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (told) *told = now.tv_sec;
  return now.tv_sec;
}
"""


@dataclass(frozen=True)
class SetClock:
    """`folder` holds the library and by how much the clock is ahead."""

    folder: Path

    @classmethod
    def build(cls, folder: Path) -> SetClock:
        assert COMPILER is not None
        folder.mkdir(parents=True)
        source = folder / "clock.c"
        source.write_text(_SOURCE)
        command = [COMPILER, "-shared", "-fPIC", "-O1", "-o", str(folder / "clock.so"), str(source)]
        subprocess.run(command, check=True, capture_output=True)
        found = cls(folder)
        found.set_ahead(0)
        return found

    @property
    def env(self) -> Mapping[str, str]:
        """With which a process has this clock."""
        return {"LD_PRELOAD": str(self.folder / "clock.so"), "CLOCK_AHEAD": str(self._file)}

    @property
    def _file(self) -> Path:
        return self.folder / "ahead"

    def set_ahead(self, seconds: int) -> None:
        """In place: every process has the file in its memory."""
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(struct.pack("@l", seconds))
