//! Programs that are not ours: found where `scripts/components` puts them.

use std::path::PathBuf;

/// The file of a component. `None`, with the reason printed: it is not there, and nothing demands it.
///
/// # Panics
/// When `REQUIRE_REAL` names the component and it is not there.
pub(crate) fn find(component: &str, file: &str) -> Option<PathBuf> {
    let home = std::env::var_os("HIGHWATER_COMPONENTS").map(PathBuf::from).or_else(|| {
        let home = std::env::var_os("HOME")?;
        Some(PathBuf::from(home).join(".cache/highwater-components"))
    });
    let path = home.map(|home| home.join(file)).filter(|path| path.exists());
    if path.is_none() {
        let is_required = std::env::var("REQUIRE_REAL").is_ok_and(|names| names.split(',').any(|n| n == component));
        assert!(!is_required, "REQUIRE_REAL names {component}, and it is not there: scripts/components {component}");
        println!("skipped: {component} is not installed (scripts/components {component} installs it)");
    }
    path
}
