//! The screen of `attach` with very many stacks, on a pseudo-terminal: how long until there is one, how long a key takes to
//! be seen, and what all that costs in processor time and memory. `cargo bench --bench screen`.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use stackscope_harness::Running;

/// How many keys are timed.
const KEYS: usize = 300;
/// How long the screen is watched with no key pressed.
const IDLE: Duration = Duration::from_secs(20);
/// The end of each drawing (DEC private mode 2026).
const DRAWN: &[u8] = b"\x1b[?2026l";

fn main() {
    for count in ["10000", "100000"] {
        let fixture = Running::start("co_asm", &[count, "slab"]);
        let mut screen = Screen::attach(fixture.pid());
        let first = screen.wait_for(b"LIVE");
        let whole = screen.wait_for(b"coroutines");
        screen.calm();
        let used = screen.processor();
        let idle = Instant::now();
        while idle.elapsed() < IDLE {
            screen.read_for(Duration::from_millis(100));
        }
        let share = (screen.processor() - used).as_secs_f64() / idle.elapsed().as_secs_f64();
        // All stacks, one below the other.
        screen.key(b"1");
        let mut times: Vec<Duration> =
            (0..KEYS).map(|at| screen.key([b"j".as_slice(), b"k", b"G", b"g", b"\x06", b"\x02"][at % 6])).collect();
        times.sort_unstable();
        let [middle, most] = [KEYS / 2, KEYS * 99 / 100].map(|at| times[at]);
        println!(
            "{count} coroutines: first screen {first:?}, all stacks on it {whole:?}; key to repaint {middle:?}, 99th \
             percentile {most:?}; {:.1} % of a core; {} KiB at most, {} KiB now",
            share * 100.0,
            screen.memory("VmHWM:"),
            screen.memory("VmRSS:")
        );
    }
}

struct Screen {
    tool: Child,
    terminal: File,
    start: Instant,
}

impl Screen {
    fn attach(pid: i32) -> Screen {
        let size = Winsize { ws_row: 36, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).unwrap();
        let stream = || Stdio::from(pty.slave.try_clone().unwrap());
        let start = Instant::now();
        let tool = Command::new("setsid")
            .args(["--ctty", env!("CARGO_BIN_EXE_stackscope"), "attach", "--no-mouse", &pid.to_string()])
            .env("TERM", "xterm-256color")
            .env_remove("CI")
            .stdin(stream())
            .stdout(stream())
            .stderr(stream())
            .spawn()
            .unwrap();
        Screen { tool, terminal: File::from(pty.master), start }
    }

    /// Reads until this was written; how long after the start that was.
    fn wait_for(&mut self, wanted: &[u8]) -> Duration {
        self.read_until(wanted);
        self.start.elapsed()
    }

    fn read_until(&mut self, wanted: &[u8]) {
        let mut seen = Vec::new();
        let mut room = vec![0; 1 << 16];
        while !seen.windows(wanted.len()).any(|part| part == wanted) {
            let count = self.terminal.read(&mut room).unwrap();
            seen.extend_from_slice(&room[..count]);
        }
    }

    /// Whether something was written within this time.
    fn read_for(&mut self, time: Duration) -> bool {
        use std::os::fd::AsFd;
        let mut news = [nix::poll::PollFd::new(self.terminal.as_fd(), nix::poll::PollFlags::POLLIN)];
        let timeout = nix::poll::PollTimeout::try_from(time).unwrap();
        let is_there = nix::poll::poll(&mut news, timeout).unwrap() > 0;
        if is_there {
            let _ = self.terminal.read(&mut vec![0; 1 << 16]).unwrap();
        }
        is_there
    }

    /// Waits until nothing more is written for a moment.
    fn calm(&mut self) {
        while self.read_for(Duration::from_millis(500)) {}
    }

    /// Presses a key; how long until it was drawn.
    fn key(&mut self, key: &[u8]) -> Duration {
        while self.read_for(Duration::from_millis(5)) {}
        let start = Instant::now();
        self.terminal.write_all(key).unwrap();
        self.read_until(DRAWN);
        start.elapsed()
    }

    fn processor(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.tool.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        // User and system time in hundredths of a second.
        let ticks: u64 = [11, 12].iter().map(|field| fields[*field].parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// What the kernel says of its resident set, in KiB: the largest so far, or that of now.
    fn memory(&self, field: &str) -> String {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.tool.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim().trim_end_matches(" kB").to_owned()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.tool.kill();
        let _ = self.tool.wait();
    }
}
