//! docs/nodes.md says what the node types say. `UPDATE_DOCS=1 cargo test -p remotemedia-pipeline --test docs` writes it.

use std::fmt::Write;
use std::path::PathBuf;

use remotemedia_pipeline::*;

/// What is generated for a type: its ports and its parameters.
fn section(spec: &NodeSpec) -> String {
    let ports = |ports: &[PortSpec]| {
        let names = ports.iter().map(|port| {
            let must = if port.connected { ", must be connected" } else { "" };
            format!("`{}` ({}{must})", port.name, port.kind)
        });
        names.collect::<Vec<_>>().join(", ")
    };
    let mut out = format!("{} → {}\n", ports(&spec.inputs), ports(&spec.outputs));
    if spec.params.is_empty() {
        return out + "\nNo parameters.\n";
    }
    out.push_str("\n| parameter | takes | unit | default | |\n|---|---|---|---|---|\n");
    for param in &spec.params {
        let default = match (&param.default, param.required) {
            (_, true) => "must be given".to_owned(),
            (None, _) => "none".to_owned(),
            (Some(serde_json::Value::String(text)), _) if text.is_empty() => "empty".to_owned(),
            (Some(serde_json::Value::String(text)), _) => format!("`{text}`"),
            (Some(value), _) => value.to_string().trim_end_matches(".0").to_owned(),
        };
        let fixed = if param.fixed { " Fixed: it changes with a reload only." } else { "" };
        assert!(!param.about.is_empty(), "{}.{} says nothing of itself", spec.node_type, param.name);
        writeln!(
            out,
            "| `{}` | {} | {} | {default} | {}.{fixed} |",
            param.name,
            param.kind.describe(),
            param.unit,
            param.about
        )
        .unwrap();
    }
    out
}

#[test]
fn the_table_of_nodes_is_what_the_nodes_take() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/nodes.md");
    let mut text = std::fs::read_to_string(&path).unwrap();
    let mut wrong = Vec::new();
    for spec in Registry::builtin().specs() {
        let name = &spec.node_type;
        let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
        assert!(text.contains(&format!("### {name}\n\n{begin}")), "docs/nodes.md has no section {name}");
        let start = text.find(&begin).unwrap() + begin.len();
        let stop = start + text[start..].find(&end).unwrap_or_else(|| panic!("{name} has no end"));
        let expected = section(&spec);
        if text[start..stop] != expected {
            text.replace_range(start..stop, &expected);
            wrong.push(name.clone());
        }
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, text).unwrap();
    } else {
        assert!(wrong.is_empty(), "docs/nodes.md is not what these say: {wrong:?}; UPDATE_DOCS=1 writes it");
    }
}
