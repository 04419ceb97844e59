//! The name that somebody who mistyped one had in mind.

/// How alike two names must be for one to be suggested for the other, from 0 to 1.
const ALIKE: f64 = 0.75;

/// The name most like `word`, in any case; `None` if none is like it.
#[must_use]
pub fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase().replace('_', "-");
    let like = |name: &str| strsim::jaro_winkler(&name.to_lowercase().replace('_', "-"), &word);
    names
        .into_iter()
        .map(|name| (like(name), name))
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .filter(|(score, _)| *score > ALIKE)
        .map(|(_, name)| name)
}

/// `; did you mean ...?` with the nearest name, or `otherwise` where none is near.
#[must_use]
pub fn hint<'a>(
    word: &str,
    names: impl IntoIterator<Item = &'a str>,
    otherwise: impl FnOnce() -> String,
) -> String {
    nearest(word, names)
        .map_or_else(|| format!("; {}", otherwise()), |name| format!("; did you mean `{name}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistyped_names() {
        let names = ["port", "sport", "state"];
        assert_eq!(nearest("prot", names), Some("port"));
        assert_eq!(nearest("STAET", names), Some("state"));
        assert_eq!(nearest("zzz", names), None);
    }
}
