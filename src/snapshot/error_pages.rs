//! The form of the errors of an entry point (`http.errorPages`), with its files.

use std::sync::Arc;

use tidegate_config::{Origin, Problem};
use tidegate_core::BuildContext;
use tidegate_middlewares::error_pages::Renderer;

use super::Snapshot;
use super::builder::Builder;

/// Returns the pages of each entry point, and mistakes in them. An entry point whose pages have a mistake keeps those
/// that it had; at the start, its errors are those of Traefik.
pub(super) fn compile(
    builder: &Builder<'_>,
    previous: Option<&Snapshot>,
) -> (Vec<Option<Arc<Renderer>>>, Vec<Problem>) {
    let mut problems = Vec::new();
    let points = builder.environment.settings.entry_points.iter().enumerate();
    let renderers = points.map(|(index, (name, point))| {
        let options = point.http.error_pages.as_ref()?;
        match options.compile(&BuildContext::new(name, builder)) {
            Ok(renderer) => Some(Arc::new(renderer)),
            Err(error) => {
                let message = format!("entryPoints.{name}.http.errorPages: {error}");
                problems.push(Problem { origin: Origin::Internal, object: None, message, excerpt: None });
                previous.and_then(|snapshot| snapshot.entry_points.get(index)?.error_pages.clone())
            }
        }
    });
    (renderers.collect(), problems)
}
