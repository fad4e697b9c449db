//! What every thread of a transport shares.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use remotemedia_link::ChannelOptions;
use remotemedia_media::{EncodedFrame, FramePool, VideoCodec};
use remotemedia_mesh as mesh;
use remotemedia_pipeline::{Data, Item, WorkerPool};

use crate::event::{Event, EventQueue};
use crate::net::Address;
use crate::outputs::{Outputs, VideoSource};
use crate::peer::{Peer, Peers};
use crate::routes::Track;
use crate::session::Sessions;
use crate::{Config, MeshCounters, PeerId, TransportCounters, TurnServer};

/// Orders that wait for the net thread; it never blocks, so more than a few mean that the machine is overloaded.
const MAX_WAITING_MEDIA: usize = 4096;

pub(crate) struct Shared {
    /// Zero of the timestamps of what is received.
    pub(crate) started: Instant,
    pub(crate) config: Config,
    pub(crate) peers: Peers,
    pub(crate) events: EventQueue,
    pub(crate) commands: Commands,
    pub(crate) outputs: Outputs,
    pub(crate) sessions: Sessions,
    pub(crate) frames: FramePool,
    /// Decodes and encodes audio: never behind a picture.
    pub(crate) audio_pool: WorkerPool,
    /// Decodes, processes and encodes pictures, and runs pipelines.
    pub(crate) video_pool: WorkerPool,
    pub(crate) subscribed_audio: AtomicBool,
    pub(crate) subscribed_video: AtomicBool,
    pub(crate) counters: Counters,
    pub(crate) closing: AtomicBool,
}

/// Totals of one transport.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) unknown_datagrams: AtomicU64,
    pub(crate) pictures_in_conflict: AtomicU64,
    /// Running now.
    pub(crate) audio_encoders: Arc<AtomicU64>,
    pub(crate) signals_refused: AtomicU64,
    pub(crate) packets_refused: AtomicU64,
    pub(crate) names_resolved: AtomicU64,
    pub(crate) names_unresolved: AtomicU64,
    /// A copy of the mesh's own.
    pub(crate) mesh: Mutex<MeshCounters>,
}

/// What other threads ask of the net thread.
pub(crate) enum Command {
    /// Something for the mesh: a signal, presence, or a call of the owner's.
    Mesh(mesh::Input),
    /// A peer's outbox has something new.
    Pump {
        peer: PeerId,
        channel: u32,
    },
    OpenChannel {
        peer: PeerId,
        channel: u32,
        label: String,
        options: ChannelOptions,
    },
    CloseChannel {
        peer: PeerId,
        channel: u32,
    },
    Audio {
        source: u64,
        targets: Vec<Arc<Peer>>,
        packet: Bytes,
        timestamp_us: i64,
    },
    Video {
        source: Arc<VideoSource>,
        codec: VideoCodec,
        targets: Vec<Arc<Peer>>,
        frame: EncodedFrame,
    },
    RequestKeyframe {
        peer: PeerId,
    },
    /// Whether a peer's messages are to wait has changed.
    Hold {
        peer: PeerId,
    },
    /// Our addresses have changed.
    Addresses(Vec<Address>),
    /// A server's name was looked up.
    Resolved {
        host: Arc<str>,
        result: Result<Vec<IpAddr>, String>,
    },
    TurnServers(Vec<TurnServer>),
    Stats {
        request: u32,
        peer: Option<PeerId>,
    },
    Close,
}

pub(crate) struct Commands {
    queue: Mutex<VecDeque<Command>>,
    /// `None` once the net thread is gone: a waker holds a file descriptor.
    waker: Mutex<Option<mio::Waker>>,
    woken: AtomicBool,
    dropped: AtomicU64,
}

impl Commands {
    pub(crate) fn new(waker: mio::Waker) -> Commands {
        Commands {
            queue: Mutex::default(),
            waker: Mutex::new(Some(waker)),
            woken: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
        }
    }

    pub(crate) fn push(&self, command: Command) {
        {
            let mut queue = crate::lock(&self.queue);
            let media = matches!(command, Command::Audio { .. } | Command::Video { .. });
            if media && queue.len() >= MAX_WAITING_MEDIA {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                return;
            }
            queue.push_back(command);
        }
        if !self.woken.swap(true, Ordering::AcqRel)
            && let Some(waker) = &*crate::lock(&self.waker)
        {
            // A waker only fails when its poll is gone, and then nobody is left to read the queue.
            let _ = waker.wake();
        }
    }

    /// Takes everything that waits. Only the net thread calls this.
    pub(crate) fn take(&self, into: &mut VecDeque<Command>) {
        if self.woken.swap(false, Ordering::AcqRel) {
            into.append(&mut crate::lock(&self.queue));
        }
    }

    /// The net thread is gone: nothing is read any more.
    pub(crate) fn close(&self) {
        crate::lock(&self.waker).take();
        crate::lock(&self.queue).clear();
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Shared {
    /// Whether anybody wants this peer's media decoded.
    pub(crate) fn wants(&self, peer: &str, track: Track) -> bool {
        let subscribed = match track {
            Track::Audio => self.subscribed_audio.load(Ordering::Relaxed),
            Track::Video => self.subscribed_video.load(Ordering::Relaxed),
            Track::Data => true,
        };
        subscribed || self.sessions.wants(peer, track)
    }

    /// Gives a received item to everyone who asked for it. Runs on the thread that decoded it.
    pub(crate) fn deliver(&self, peer: &PeerId, item: Item) {
        let event = match &item.data {
            Data::Audio(frame) if self.subscribed_audio.load(Ordering::Relaxed) => {
                Some(Event::Audio { peer: peer.clone(), frame: frame.clone() })
            }
            Data::Video(frame) if self.subscribed_video.load(Ordering::Relaxed) => {
                Some(Event::Video { peer: peer.clone(), frame: frame.clone() })
            }
            _ => None,
        };
        if let Some(event) = event {
            self.events.push(event);
        }
        self.sessions.route(peer, item);
    }

    pub(crate) fn counters(&self) -> TransportCounters {
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        TransportCounters {
            unknown_datagrams: get(&self.counters.unknown_datagrams),
            held_peers: self.peers.all().iter().filter(|peer| peer.is_held()).count() as u64,
            media_commands_dropped: self.commands.dropped(),
            audio_encoders: get(&self.counters.audio_encoders),
            pictures_in_conflict: get(&self.counters.pictures_in_conflict),
            signals_refused: get(&self.counters.signals_refused),
            packets_refused: get(&self.counters.packets_refused),
            names_resolved: get(&self.counters.names_resolved),
            names_unresolved: get(&self.counters.names_unresolved),
            mesh: *crate::lock(&self.counters.mesh),
            events: self.events.counters(),
        }
    }
}

/// Lets something happen at most once an interval.
pub(crate) struct Every {
    interval: Duration,
    last: Option<Instant>,
}

impl Every {
    pub(crate) fn new(interval: Duration) -> Every {
        Every { interval, last: None }
    }

    pub(crate) fn allows(&mut self, now: Instant) -> bool {
        let due = self.last.is_none_or(|last| now.saturating_duration_since(last) >= self.interval);
        if due {
            self.last = Some(now);
        }
        due
    }
}
