use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use crate::data::Item;
use crate::error::NodeError;
use crate::exec::lock;

/// Leads from an item back to whoever put it, or what it was made from, into the graph.
///
/// Clones travel with each derived item. A ticket for one result resolves exactly once: with the first item that reaches
/// a graph output, with an error, or with `None` when the last clone is dropped without either.
#[derive(Clone)]
pub struct Ticket {
    inner: Arc<Inner>,
}

/// What a run comes to: an item, `None` when it was dropped on the way, or an error.
pub type Outcome = Result<Option<Item>, NodeError>;

type Callback = Box<dyn FnOnce(Outcome) + Send>;

enum Inner {
    Once(Once),
    /// Every item goes to the sink, with the node and the port that it leaves by.
    Each(EachSink),
    /// Every item that leaves by this output (all outputs where `None`) goes to the sink.
    Every {
        output: Option<Output>,
        sink: Arc<dyn Fn(Item) + Send + Sync>,
    },
}

struct Once(Mutex<Option<Callback>>);

/// Told the id of the node and the name of the port that an item left a graph by.
pub type EachSink = Arc<dyn Fn(&str, &str, Item) + Send + Sync>;

/// Where items leave a graph: a node, or one output port of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Output {
    pub node: Arc<str>,
    pub port: Option<String>,
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.port {
            Some(port) => write!(f, "{}.{port}", self.node),
            None => f.write_str(&self.node),
        }
    }
}

impl Output {
    pub fn is(&self, node: &str, port: &str) -> bool {
        *self.node == *node && self.port.as_deref().is_none_or(|only| only == port)
    }
}

impl Ticket {
    /// Resolves once, on whichever thread it happens.
    pub fn once(callback: impl FnOnce(Outcome) + Send + 'static) -> Ticket {
        Ticket { inner: Arc::new(Inner::Once(Once(Mutex::new(Some(Box::new(callback)))))) }
    }

    pub(crate) fn every(output: Option<Output>, sink: Arc<dyn Fn(Item) + Send + Sync>) -> Ticket {
        Ticket { inner: Arc::new(Inner::Every { output, sink }) }
    }

    pub(crate) fn each(sink: EachSink) -> Ticket {
        Ticket { inner: Arc::new(Inner::Each(sink)) }
    }

    /// An item that left the graph at this output of the node of this id. False when nobody wanted it.
    pub(crate) fn deliver(&self, node: &str, port: &str, mut item: Item) -> bool {
        // The receiver is not part of the graph: the ticket ends here.
        let ticket = item.ticket.take();
        let wanted = match &*self.inner {
            Inner::Once(once) => once.resolve(Ok(Some(item))),
            Inner::Each(sink) => {
                sink(node, port, item);
                true
            }
            Inner::Every { output: only, sink } if only.as_ref().is_none_or(|only| only.is(node, port)) => {
                sink(item);
                true
            }
            Inner::Every { .. } => false,
        };
        drop(ticket);
        wanted
    }

    /// Resolves a ticket for one result with an error.
    pub fn fail(&self, error: NodeError) {
        if let Inner::Once(once) = &*self.inner {
            once.resolve(Err(error));
        }
    }
}

impl Once {
    fn resolve(&self, outcome: Outcome) -> bool {
        let callback = lock(&self.0).take();
        callback.map(|callback| callback(outcome)).is_some()
    }
}

impl Drop for Once {
    fn drop(&mut self) {
        let callback = self.0.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        if let Some(callback) = callback {
            // Tickets are dropped while panics unwind; a second panic would end the process.
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| callback(Ok(None)))) {
                std::mem::forget(payload);
            }
        }
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match *self.inner {
            Inner::Once(_) => "Ticket(once)",
            Inner::Each(_) | Inner::Every { .. } => "Ticket(every)",
        })
    }
}
