//! The built-in node types.

mod audio;
mod blur;
mod onnx;
mod picture;
mod plane;
mod segment;

pub use onnx::{set_model_dir, set_onnx_runtime_path};

use std::sync::Arc;

use crate::data::{Item, Kind};
use crate::error::NodeError;
use crate::spec::{Emit, Load, Node, NodeFactory, NodeSpec, Params, PortSpec};

/// All of them.
pub(crate) fn specs() -> Vec<NodeSpec> {
    vec![pass_through(), audio::gain(), audio::resample(), picture::scale(), segment::spec(), blur::spec()]
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
