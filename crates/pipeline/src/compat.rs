//! Manifests of the existing RemoteMedia ecosystem: its names for node types and parameters that there are here too.
//!
//! A type of that name that an application has registered comes first. What a parameter can't be translated to is left
//! out with a warning: it was written for another implementation, which may do by itself what ours doesn't have.

use serde_json::{Map, Value};

use crate::error::printable;

/// A node of theirs as one of ours.
pub(crate) struct Translated {
    pub node_type: &'static str,
    pub params: Map<String, Value>,
    /// Parameters left out.
    pub ignored: Vec<String>,
}

struct Alias {
    theirs: &'static [&'static str],
    ours: &'static str,
    params: &'static [(&'static str, Rule)],
}

#[derive(Clone, Copy)]
enum Rule {
    /// The same under another name.
    Is(&'static str),
    /// Nothing to say here: what it asks for is always so.
    Needless,
    /// `vertical`, `horizontal` or `both`.
    Direction,
    /// True keeps the aspect ratio.
    Fit,
}

use Rule::{Direction, Fit, Is, Needless};

const ALIASES: &[Alias] = &[
    Alias {
        theirs: &[
            "FastResampleNode",
            "FastResample",
            "RustResampleNode",
            "AudioResample",
            "AudioResampleNode",
            "AutoResampleStreamingNode",
        ],
        ours: "Resample",
        params: &[
            ("target_rate", Is("rate")),
            ("target_sample_rate", Is("rate")),
            ("channels", Is("channels")),
            ("source_rate", Needless),
            ("quality", Needless),
        ],
    },
    Alias {
        theirs: &["SileroVADNode", "SileroVAD", "RustVADNode", "FastVADNode", "VADNode"],
        ours: "Vad",
        params: &[
            ("threshold", Is("threshold")),
            ("neg_threshold", Is("neg_threshold")),
            ("min_speech_duration_ms", Is("min_speech_ms")),
            ("min_silence_duration_ms", Is("min_silence_ms")),
            ("speech_pad_ms", Is("pad_ms")),
            ("pre_speech_pad_ms", Is("pad_ms")),
            ("sample_rate", Needless),
            ("sampling_rate", Needless),
        ],
    },
    Alias {
        theirs: &["AudioLevelNode", "AudioLevel"],
        ours: "LevelMeter",
        params: &[("window_size_ms", Is("interval_ms")), ("emit_interval_ms", Is("interval_ms"))],
    },
    Alias {
        theirs: &["AudioChunkerNode", "AudioChunker"],
        ours: "Chunk",
        params: &[("chunk_size", Is("samples")), ("chunk_size_ms", Is("ms"))],
    },
    Alias {
        theirs: &["VideoFlipNode", "VideoFlip"],
        ours: "Flip",
        params: &[("direction", Direction), ("horizontal", Is("horizontal")), ("vertical", Is("vertical"))],
    },
    Alias {
        theirs: &["VideoScalerNode", "VideoScaler", "VideoScale"],
        ours: "Scale",
        params: &[
            ("target_width", Is("width")),
            ("target_height", Is("height")),
            ("width", Is("width")),
            ("height", Is("height")),
            ("maintain_aspect_ratio", Fit),
            ("algorithm", Needless),
        ],
    },
    Alias { theirs: &["PassThroughNode", "Echo", "EchoNode"], ours: "PassThrough", params: &[] },
];

/// What a type of theirs is here, with its parameters. `None`: not one that is known.
pub(crate) fn translate(node_type: &str, given: &Map<String, Value>) -> Option<Translated> {
    let alias = ALIASES.iter().find(|alias| alias.theirs.contains(&node_type))?;
    let mut params = Map::new();
    let mut ignored = Vec::new();
    for (name, value) in given {
        let plain = snake(name);
        match alias.params.iter().find(|(theirs, _)| *theirs == plain) {
            Some((_, Needless)) => {}
            // What they find out by themselves is found out here too.
            Some(_) if value.as_str() == Some("auto") => {}
            Some((_, Is(ours))) => drop(params.insert((*ours).to_owned(), value.clone())),
            Some((_, Direction)) => {
                let (horizontal, vertical) = match value.as_str() {
                    Some("horizontal") => (true, false),
                    Some("both") => (true, true),
                    _ => (false, true),
                };
                params.insert("horizontal".to_owned(), horizontal.into());
                params.insert("vertical".to_owned(), vertical.into());
            }
            Some((_, Fit)) => {
                let fit = if value == &Value::Bool(false) { "stretch" } else { "inside" };
                params.insert("fit".to_owned(), fit.into());
            }
            None => ignored.push(printable(name)),
        }
    }
    // Theirs is upside down where nothing is said.
    if node_type == "VideoFlipNode" && params.is_empty() {
        params.insert("horizontal".to_owned(), false.into());
        params.insert("vertical".to_owned(), true.into());
    }
    Some(Translated { node_type: alias.ours, params, ignored })
}

/// `minSpeechDurationMs` and `min_speech_duration_ms` are the same.
fn snake(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}
