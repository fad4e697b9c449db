//! The built-in node types.

mod agc;
mod audio;
mod blend;
mod blur;
mod chunk;
mod compositor;
mod denoise;
mod flow;
mod layout;
mod level;
mod limiter;
mod mixer;
mod onnx;
mod overlay;
mod picture;
mod plane;
mod segment;
mod shape;
mod vad;

pub use layout::{LayoutKind, Rect, layout};
pub use onnx::{set_model_dir, set_onnx_runtime_path};

use std::sync::Arc;

use crate::data::{Item, Kind};
use crate::error::NodeError;
use crate::spec::{Emit, Load, Node, NodeFactory, NodeSpec, Params, PortSpec};

/// All of them.
pub(crate) fn specs() -> Vec<NodeSpec> {
    vec![
        pass_through(),
        flow::tee(),
        flow::drop(),
        flow::throttle(),
        audio::gain(),
        audio::resample(),
        chunk::spec(),
        limiter::spec(),
        mixer::spec("AudioMixer"),
        mixer::spec("ConferenceMixer"),
        agc::spec(),
        denoise::spec(),
        vad::spec(),
        level::spec(),
        picture::scale(),
        shape::crop(),
        shape::flip(),
        overlay::text(),
        overlay::image(),
        compositor::spec(),
        segment::spec(),
        blur::spec(),
    ]
}

/// `PassThrough`: `in` (any) -> `out` (the same). Gives out what it gets.
fn pass_through() -> NodeSpec {
    struct PassThrough;
    impl Node for PassThrough {
        fn process(&mut self, _port: usize, item: Item, out: &mut Emit) -> Result<(), NodeError> {
            out.push(0, item);
            Ok(())
        }
    }
    NodeSpec {
        node_type: "PassThrough".to_owned(),
        inputs: vec![PortSpec::new("in", Kind::Any)],
        outputs: vec![PortSpec::new("out", Kind::Any)],
        params: Vec::new(),
        same_kind: true,
        load: simple(|_| Ok(PassThrough)),
    }
}

/// For types with nothing to load: `make` makes a node.
fn simple<N: Node + 'static>(make: fn(&Params) -> Result<N, NodeError>) -> Load {
    Arc::new(move |_| {
        let factory = move |params: &Params| make(params).map(|node| Box::new(node) as Box<dyn Node>);
        Ok(Box::new(factory) as Box<dyn NodeFactory>)
    })
}

/// For input ports that take one kind only; the graph has checked it.
fn unexpected(item: &Item) -> NodeError {
    NodeError::failed(format!("it can't take {}", item.kind()))
}
