//! The archive: an OCI image layout that is also what `docker save` writes, so that containerd, CRI-O, Podman and Docker
//! take it.

use std::io::Write;

use serde_json::{Value, json};
use tar::{Builder, EntryType};

use crate::image::layer::{Layer, digest, header};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Writes the archive; answers the manifest's digest, by which the image is known.
pub(super) fn write(
    output: impl Write,
    name: &str,
    version: &str,
    layer: &Layer,
) -> anyhow::Result<String> {
    let config = config(version, layer).to_string();
    let layer_digest = digest(&layer.gzip);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, config.as_bytes()),
        "layers": [descriptor(LAYER, &layer.gzip)],
    })
    .to_string();
    let mut listed = descriptor(MANIFEST, manifest.as_bytes());
    listed["platform"] = json!({"architecture": layer.architecture, "os": "linux"});
    // containerd takes the first, Podman and skopeo the second.
    listed["annotations"] = json!({
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name,
    });
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [listed]});
    let saved = json!([{
        "Config": blob(&digest(config.as_bytes())),
        "RepoTags": [name],
        "Layers": [blob(&layer_digest)],
    }]);

    let mut tar = Builder::new(output);
    let mut put = |path: &str, content: &[u8]| {
        let mut header = header(EntryType::Regular, 0o644, content.len());
        tar.append_data(&mut header, path, content)
    };
    put("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    put("index.json", index.to_string().as_bytes())?;
    put("manifest.json", saved.to_string().as_bytes())?;
    for content in [manifest.as_bytes(), config.as_bytes(), &layer.gzip] {
        put(&blob(&digest(content)), content)?;
    }
    tar.into_inner()?.flush()?;
    Ok(digest(manifest.as_bytes()))
}

fn config(version: &str, layer: &Layer) -> Value {
    json!({
        "architecture": layer.architecture,
        "os": "linux",
        "config": {
            "Entrypoint": ["/bin/tortie-node"],
            "Env": ["PATH=/bin:/opt/cni/bin"],
            "WorkingDir": "/",
            "Labels": {
                "org.opencontainers.image.title": "Tortie",
                "org.opencontainers.image.version": version,
                "org.opencontainers.image.licenses": "Apache-2.0",
            },
        },
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        "history": [{"created_by": "cargo xtask image"}],
    })
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(content), "size": content.len()})
}

/// Where the layout keeps what has this digest.
fn blob(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}
