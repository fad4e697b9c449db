//! One UDP socket: batched receive, and sends joined into segmentation-offloaded batches.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};

/// Datagrams wait here only while the kernel's send buffer is full.
const MAX_WAITING_BYTES: usize = 1 << 20;
/// The largest UDP payload, less room for headers.
const MAX_BATCH_BYTES: usize = 65_000;

pub(crate) struct Socket {
    io: mio::net::UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
    max_segments: usize,
    batch: Batch,
    waiting: VecDeque<Batch>,
    waiting_bytes: usize,
    pub(crate) counters: SocketCounters,
}

/// What a socket has done since it was opened.
#[derive(Debug, Default, Clone, Copy)]
pub struct SocketCounters {
    /// Datagrams received.
    pub datagrams_received: u64,
    /// Datagrams handed to the kernel.
    pub datagrams_sent: u64,
    /// Send calls that carried them.
    pub send_calls: u64,
    /// Datagrams dropped because the kernel's buffer and ours were full.
    pub dropped_full: u64,
    /// Datagrams the kernel refused (unreachable, too large).
    pub dropped_error: u64,
}

/// Receive buffers, shared by all sockets of one net thread.
pub(crate) struct ReceiveBuffers {
    storage: Vec<Vec<u8>>,
    meta: Vec<RecvMeta>,
}

/// Datagrams for one destination, all as long as the first but for the last, which may be shorter.
#[derive(Default)]
struct Batch {
    destination: Option<SocketAddr>,
    bytes: Vec<u8>,
    segment: usize,
    count: usize,
}

impl Socket {
    /// `buffer_bytes` is asked for in each direction. What the system grants is often less (Linux: `net.core.rmem_max`).
    pub(crate) fn bind(address: SocketAddr, buffer_bytes: usize) -> io::Result<Socket> {
        let std_socket = std::net::UdpSocket::bind(address)?;
        std_socket.set_nonblocking(true)?;
        let state = UdpSocketState::new(UdpSockRef::from(&std_socket))?;
        // Refusals are no error: what was granted is read back and bounds what is in flight.
        let _ = state.set_recv_buffer_size(UdpSockRef::from(&std_socket), buffer_bytes);
        let _ = state.set_send_buffer_size(UdpSockRef::from(&std_socket), buffer_bytes);
        let local = std_socket.local_addr()?;
        let max_segments = state.max_gso_segments().clamp(1, 50);
        Ok(Socket {
            io: mio::net::UdpSocket::from_std(std_socket),
            state,
            local,
            max_segments,
            batch: Batch::default(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            counters: SocketCounters::default(),
        })
    }

    pub(crate) fn local(&self) -> SocketAddr {
        self.local
    }

    pub(crate) fn source(&mut self) -> &mut mio::net::UdpSocket {
        &mut self.io
    }

    /// The receive buffer the system granted, in bytes of payload (Linux reports twice what it accounts for).
    fn granted_buffer_bytes(&self) -> usize {
        let reported = self.state.recv_buffer_size(UdpSockRef::from(&self.io)).unwrap_or(212_992);
        if cfg!(target_os = "linux") { reported / 2 } else { reported }
    }

    /// Queues one datagram; [`Socket::flush`] sends it.
    pub(crate) fn send(&mut self, to: SocketAddr, data: &[u8]) {
        if !self.batch.takes(to, data.len(), self.max_segments) {
            self.flush();
        }
        self.batch.push(to, data);
    }

    /// Sends what is queued. What the kernel has no room for waits for [`Socket::on_writable`].
    pub(crate) fn flush(&mut self) {
        if self.batch.count == 0 {
            return;
        }
        if !self.waiting.is_empty() {
            let batch = std::mem::take(&mut self.batch);
            self.wait(batch);
            return;
        }
        match self.try_send_batch() {
            Ok(()) => self.batch.clear(),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                let batch = std::mem::take(&mut self.batch);
                self.wait(batch);
            }
            Err(_) => {
                self.counters.dropped_error += self.batch.count as u64;
                self.batch.clear();
            }
        }
    }

    /// The kernel has room again.
    pub(crate) fn on_writable(&mut self) {
        while let Some(batch) = self.waiting.pop_front() {
            self.waiting_bytes -= batch.bytes.len();
            let current = std::mem::replace(&mut self.batch, batch);
            let result = self.try_send_batch();
            let sent = std::mem::replace(&mut self.batch, current);
            match result {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.waiting_bytes += sent.bytes.len();
                    self.waiting.push_front(sent);
                    return;
                }
                Err(_) => self.counters.dropped_error += sent.count as u64,
            }
        }
    }

    /// Hands every datagram of one receive call to `each`. Returns false when nothing was waiting.
    pub(crate) fn receive(
        &mut self,
        buffers: &mut ReceiveBuffers,
        mut each: impl FnMut(SocketAddr, &[u8]),
    ) -> bool {
        let count = {
            let mut slices: [IoSliceMut; BATCH_SIZE] = {
                let mut storage = buffers.storage.iter_mut();
                std::array::from_fn(|_| match storage.next() {
                    Some(b) => IoSliceMut::new(b),
                    None => IoSliceMut::new(&mut []),
                })
            };
            match self.state.recv(UdpSockRef::from(&self.io), &mut slices, &mut buffers.meta) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
                // An ICMP error of an earlier send surfaces here; it concerns one peer, and ICE notices by itself.
                Err(_) => return true,
            }
        };
        for (meta, data) in buffers.meta.iter().zip(&buffers.storage).take(count) {
            for datagram in data[..meta.len].chunks(meta.stride.max(1)) {
                self.counters.datagrams_received += 1;
                each(meta.addr, datagram);
            }
        }
        true
    }

    fn try_send_batch(&mut self) -> io::Result<()> {
        let Some(destination) = self.batch.destination else { return Ok(()) };
        let transmit = Transmit {
            destination,
            ecn: None,
            contents: &self.batch.bytes,
            segment_size: (self.batch.count > 1).then_some(self.batch.segment),
            src_ip: None,
        };
        self.state.try_send(UdpSockRef::from(&self.io), &transmit)?;
        self.counters.send_calls += 1;
        self.counters.datagrams_sent += self.batch.count as u64;
        Ok(())
    }

    fn wait(&mut self, batch: Batch) {
        if self.waiting_bytes + batch.bytes.len() > MAX_WAITING_BYTES {
            self.counters.dropped_full += batch.count as u64;
            return;
        }
        self.waiting_bytes += batch.bytes.len();
        self.waiting.push_back(batch);
    }
}

/// The receive buffer that the system grants a socket, in bytes of payload.
pub(crate) fn granted_buffer_bytes(asked: usize) -> io::Result<usize> {
    let any = [SocketAddr::from(([0, 0, 0, 0], 0)), SocketAddr::from(([0u16; 8], 0))];
    let socket = Socket::bind(any[0], asked).or_else(|_| Socket::bind(any[1], asked))?;
    Ok(socket.granted_buffer_bytes())
}

impl ReceiveBuffers {
    pub(crate) fn new() -> ReceiveBuffers {
        ReceiveBuffers {
            storage: vec![vec![0; 65_536]; BATCH_SIZE],
            meta: vec![RecvMeta::default(); BATCH_SIZE],
        }
    }
}

impl Batch {
    fn takes(&self, to: SocketAddr, len: usize, max_segments: usize) -> bool {
        self.count == 0
            || (self.destination == Some(to)
                && len <= self.segment
                && self.bytes.len() == self.count * self.segment
                && self.count < max_segments
                && self.bytes.len() + len <= MAX_BATCH_BYTES)
    }

    fn push(&mut self, to: SocketAddr, data: &[u8]) {
        if self.count == 0 {
            self.destination = Some(to);
            self.segment = data.len();
        }
        self.bytes.extend_from_slice(data);
        self.count += 1;
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
        self.destination = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_datagrams_travel_in_one_call_and_arrive_apart() {
        let mut a = Socket::bind("127.0.0.1:0".parse().unwrap(), 1 << 20).unwrap();
        let mut b = Socket::bind("127.0.0.1:0".parse().unwrap(), 1 << 20).unwrap();
        for i in 0..10u8 {
            a.send(b.local(), &[i; 100]);
        }
        a.send(b.local(), &[10; 40]);
        a.send(b.local(), &[11; 100]);
        a.flush();
        let mut buffers = ReceiveBuffers::new();
        let mut got = Vec::new();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while got.len() < 12 && std::time::Instant::now() < deadline {
            b.receive(&mut buffers, |from, data| {
                assert_eq!(from, a.local());
                got.push((data[0], data.len()));
            });
        }
        let expected: Vec<_> = (0..12u8).map(|i| (i, if i == 10 { 40 } else { 100 })).collect();
        assert_eq!(got, expected);
        assert_eq!(a.counters.datagrams_sent, 12);
        if a.max_segments > 11 {
            assert_eq!(a.counters.send_calls, 2);
        }
    }
}
