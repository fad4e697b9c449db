//! Carries packets between two network namespaces as a bad link would: the kernel has no netem everywhere.
//!
//! It makes a TUN device in each namespace and forwards between the two, each direction through a [`Shaper`]. One thread; it
//! ends with its standard input, and its devices with it.
//!
//! ```text
//! tun-forward NETNS DEVICE NETNS DEVICE [CONDITION] [seed=N]    `-` as NETNS is the present one
//! tun-forward --list                                            the names of the conditions
//! ```
//!
//! Lines of standard input, each answered by one line (`ok`, `error …`, or JSON):
//!
//! ```text
//! condition NAME             up and down as that condition says
//! up KEY=VALUE …             changes the direction from the first namespace to the second
//! down KEY=VALUE …           the other one
//! stats                      counters of both
//! ```

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("tun-forward: network namespaces and TUN devices are Linux's");
    std::process::exit(1);
}

#[cfg(target_os = "linux")]
fn main() {
    if let Err(error) = linux::run(std::env::args().skip(1).collect()) {
        eprintln!("tun-forward: {error}");
        std::process::exit(1);
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use remotemedia_testkit::{CONDITIONS, Condition, Shape, ShapeCounts, Shaper};
    use std::fs::{File, OpenOptions};
    use std::io::{self, Read, Write};
    use std::os::fd::{AsFd, AsRawFd, RawFd};
    use std::os::unix::fs::OpenOptionsExt;
    use std::time::{Duration, Instant};

    /// Packets read of one device before the other has its turn.
    const BATCH: usize = 64;
    const MAX_PACKET: usize = 65_536;
    /// A line of standard input at most; who writes longer ones is no test of ours.
    const MAX_LINE: usize = 4096;

    type Failure = Box<dyn std::error::Error>;

    struct Direction {
        name: &'static str,
        shaper: Shaper,
        /// Packets that the device didn't take: it was down.
        refused: u64,
    }

    pub fn run(args: Vec<String>) -> Result<(), Failure> {
        if args == ["--list"] {
            for condition in CONDITIONS {
                println!("{}", condition.name);
            }
            return Ok(());
        }
        let [first_ns, first_device, second_ns, second_device, options @ ..] = args.as_slice() else {
            return Err("usage: tun-forward NETNS DEVICE NETNS DEVICE [CONDITION] [seed=N]".into());
        };
        let mut condition = CONDITIONS[0];
        let mut seed = 1;
        for option in options {
            match option.strip_prefix("seed=") {
                Some(number) => seed = number.parse().map_err(|_| format!("{option}: no number"))?,
                None => condition = named(option)?,
            }
        }
        let home = File::open("/proc/self/ns/net")?;
        let mut devices = [
            device(&home, first_ns, first_device)
                .map_err(|e| format!("{first_device} in {first_ns}: {e}"))?,
            device(&home, second_ns, second_device)
                .map_err(|e| format!("{second_device} in {second_ns}: {e}"))?,
        ];
        let mut directions = [
            Direction { name: "up", shaper: Shaper::new(seed, condition.up), refused: 0 },
            Direction { name: "down", shaper: Shaper::new(seed ^ 0x5eed, condition.down), refused: 0 },
        ];
        say("ready")?;
        forward(&mut devices, &mut directions)
    }

    fn named(name: &str) -> Result<Condition, String> {
        Condition::named(name).copied().ok_or_else(|| {
            let names: Vec<&str> = CONDITIONS.iter().map(|c| c.name).collect();
            format!("no condition '{name}'; there are {}", names.join(", "))
        })
    }

    fn forward(devices: &mut [File; 2], directions: &mut [Direction; 2]) -> Result<(), Failure> {
        let start = Instant::now();
        let mut packet = vec![0; MAX_PACKET];
        let mut input = Input::open()?;
        loop {
            for (i, direction) in directions.iter_mut().enumerate() {
                let now = start.elapsed();
                while let Some(packet) = direction.shaper.pop(now) {
                    if devices[1 - i].write(&packet).is_err() {
                        direction.refused += 1;
                    }
                }
            }
            let next = directions.iter().filter_map(|d| d.shaper.next_at()).min();
            let wait = next.map(|at| at.saturating_sub(start.elapsed()));
            let ready = poll([devices[0].as_raw_fd(), devices[1].as_raw_fd(), 0], wait)?;
            for i in 0..2 {
                if !ready[i] {
                    continue;
                }
                for _ in 0..BATCH {
                    match devices[i].read(&mut packet) {
                        Ok(length) => directions[i].shaper.push(start.elapsed(), &packet[..length]),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        // A device that is down; poll() tells of it without end.
                        Err(error) if error.raw_os_error() == Some(libc::EIO) => {
                            std::thread::sleep(Duration::from_millis(1));
                            break;
                        }
                        // A namespace that was deleted took its device along.
                        Err(error) if error.raw_os_error() == Some(libc::EBADFD) => return Ok(()),
                        Err(error) => return Err(error.into()),
                    }
                }
            }
            if ready[2] {
                let Some(lines) = input.read()? else { return Ok(()) };
                for line in lines {
                    say(&match obey(&line, start.elapsed(), directions) {
                        Ok(answer) => answer,
                        Err(error) => format!("error {error}"),
                    })?;
                }
            }
        }
    }

    fn obey(line: &str, now: Duration, directions: &mut [Direction; 2]) -> Result<String, String> {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("condition") => {
                let condition = named(words.next().unwrap_or_default())?;
                directions[0].shaper.set_shape(now, condition.up);
                directions[1].shaper.set_shape(now, condition.down);
                Ok("ok".to_owned())
            }
            Some("stats") => {
                let [up, down] = directions;
                Ok(format!("{{{},{}}}", json(up), json(down)))
            }
            Some(name) => {
                let direction = directions
                    .iter_mut()
                    .find(|d| d.name == name)
                    .ok_or_else(|| format!("'{name}': known are condition, up, down, stats"))?;
                let mut shape: Shape = direction.shaper.shape();
                for word in words {
                    shape.set(word)?;
                }
                direction.shaper.set_shape(now, shape);
                Ok("ok".to_owned())
            }
            None => Err("an empty line".to_owned()),
        }
    }

    fn json(direction: &Direction) -> String {
        let ShapeCounts { taken, bytes, given, lost, queue_full, overflow, peak } = direction.shaper.counts();
        format!(
            "\"{}\":{{\"taken\":{taken},\"bytes\":{bytes},\"given\":{given},\"lost\":{lost},\
             \"queueFull\":{queue_full},\"overflow\":{overflow},\"peak\":{peak},\"refused\":{}}}",
            direction.name, direction.refused
        )
    }

    fn say(line: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{line}")?;
        out.flush()
    }

    /// Whole lines of standard input, which std's own buffer would hide from `poll`.
    struct Input {
        file: File,
        rest: Vec<u8>,
    }

    impl Input {
        fn open() -> io::Result<Input> {
            Ok(Input { file: io::stdin().as_fd().try_clone_to_owned()?.into(), rest: Vec::new() })
        }

        /// What can be read without waiting; `None` at the end.
        fn read(&mut self) -> Result<Option<Vec<String>>, Failure> {
            let mut bytes = [0; 1024];
            let length = self.file.read(&mut bytes)?;
            if length == 0 {
                return Ok(None);
            }
            self.rest.extend_from_slice(&bytes[..length]);
            let mut lines = Vec::new();
            while let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                lines.push(String::from_utf8_lossy(&line).trim().to_owned());
            }
            if self.rest.len() > MAX_LINE {
                return Err("a line that does not end".into());
            }
            Ok(Some(lines))
        }
    }

    /// Makes a TUN device in a namespace. It lives as long as the file.
    fn device(home: &File, netns: &str, name: &str) -> io::Result<File> {
        if netns != "-" {
            enter(&File::open(format!("/run/netns/{netns}"))?)?;
        }
        let made = make_device(name);
        if netns != "-" {
            enter(home)?;
        }
        made
    }

    fn make_device(name: &str) -> io::Result<File> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")?;
        // SAFETY: ifreq is plain old data, for which all zeroes is a valid value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        if name.is_empty() || name.len() >= request.ifr_name.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a device name has 1 to 15 characters"));
        }
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
        // SAFETY: the descriptor is open, and TUNSETIFF reads and writes one ifreq, which outlives the call.
        match unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &mut request) } {
            0 => Ok(file),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn enter(netns: &File) -> io::Result<()> {
        // SAFETY: the descriptor is open, and moving this one thread to another network namespace touches no memory.
        match unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Waits until one of these can be read, for so long at most; which can.
    fn poll(files: [RawFd; 3], wait: Option<Duration>) -> io::Result<[bool; 3]> {
        let mut polled = files.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
        let timeout = wait.map(|wait| libc::timespec {
            tv_sec: wait.as_secs().min(3600) as libc::time_t,
            tv_nsec: wait.subsec_nanos() as _,
        });
        let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: the array and the timeout outlive the call, and the length is the array's.
        let count = unsafe { libc::ppoll(polled.as_mut_ptr(), polled.len() as _, timeout, std::ptr::null()) };
        if count < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok([false; 3]) } else { Err(error) };
        }
        Ok(polled.map(|p| p.revents != 0))
    }
}
