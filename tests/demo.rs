//! The demo end to end, with few scenes.

use std::path::Path;

use ddu::Error;
use ddu::demo::{self, Extent, Summary};
use ddu::score::Score;

const EXTENT: Extent = Extent { fit: 24, test: 8, pictures: 2 };

fn run(folder: &Path) -> Summary {
    demo::run(EXTENT, folder, &|_, _| Ok(())).unwrap()
}

#[test]
fn it_shows_what_the_paper_claims_and_writes_the_same_files_twice() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let summary = run(folders[0].path());

    // Far below what the whole demo measures (README), far above chance.
    assert!(summary.pixel_accuracy.unwrap() > 0.85, "{summary:?}");
    assert!(summary.mean_iou.unwrap() > 0.5, "{summary:?}");
    let [inside, border, unknown] = summary.zones.as_slice() else { panic!("{summary:?}") };
    assert!(border.entropy_mean.unwrap() > 2.0 * inside.entropy_mean.unwrap(), "{summary:?}");
    assert!(unknown.log_density_median < inside.log_density_median, "{summary:?}");
    assert!(unknown.pixels > 1000 && unknown.accuracy.is_none(), "{summary:?}");
    assert!(summary.unknown.get(Score::Density).unwrap().auroc > 0.75, "{summary:?}");
    assert!(summary.errors.get(Score::Entropy).unwrap().auroc > 0.8, "{summary:?}");

    // Every pixel is counted once, everywhere.
    let pixels = EXTENT.test * demo::scenes::SIZE.pixels();
    let zones: usize = summary.zones.iter().map(|z| z.pixels).sum();
    let strange: usize = summary.strangers.iter().map(|s| s.pixels).sum();
    let found = summary.unknown.get(Score::Entropy).unwrap();
    let errors = summary.errors.get(Score::Density).unwrap();
    assert_eq!((zones, strange), (pixels, unknown.pixels));
    assert_eq!(found.positives as usize, strange);
    assert_eq!((found.positives + found.negatives) as usize, pixels);
    assert_eq!(errors.positives + errors.negatives, found.negatives);
    let wrong = errors.positives as f64 / found.negatives as f64;
    assert!((summary.pixel_accuracy.unwrap() - (1.0 - wrong)).abs() < 1e-12);

    let names = |folder: &Path| {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let mut expected: Vec<String> =
        ["index.html", "sheet.png", "summary.json"].map(String::from).into();
    for scene in 1..=EXTENT.pictures {
        for map in ["scene", "label", "prediction", "entropy", "density"] {
            expected.push(format!("{scene:02}.{map}.png"));
        }
    }
    expected.sort();
    assert_eq!(names(folders[0].path()), expected);

    // The second run on one thread: nothing may depend on how the work is split.
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert_eq!(one.install(|| run(folders[1].path())), summary);
    for name in expected {
        let [a, b] = [0, 1].map(|i| std::fs::read(folders[i].path().join(&name)).unwrap());
        assert!(a == b, "{name} differs");
    }

    let text = std::fs::read_to_string(folders[0].path().join("summary.json")).unwrap();
    assert!(text.contains("\"schema_version\": 1"), "{text}");
    // As text: serde_json reads a double only to its last place but one.
    assert_eq!(text, serde_json::to_string_pretty(&summary).unwrap() + "\n");
    let page = std::fs::read_to_string(folders[0].path().join("index.html")).unwrap();
    assert!(summary.findings.iter().all(|finding| page.contains(finding.as_str())));
    // Self-contained: no address, every source is inline, and the browser is told to load nothing.
    assert!(
        !page.contains("http:") && !page.contains("https:") && page.contains("default-src 'none'")
    );
    let inline = page.matches("src=\"data:image/").count();
    assert!(inline == page.matches("src=").count() && inline == EXTENT.pictures * 5, "{inline}");
    assert!(page.len() < 15 << 20, "{} bytes", page.len());
    // For readers of small and dark screens, and for those who listen.
    assert!(page.contains("prefers-color-scheme: dark") && page.contains("overflow-x: auto"));
    let tables = page.matches("<table>").count();
    assert!(tables == 4 && page.matches("<table><caption>").count() == tables, "{tables}");
    assert!(page.matches("<th ").count() == page.matches("<th scope=").count());
    assert!(!page.contains("<th>"));
    for name in ["sheet.png", "01.density.png"] {
        image::open(folders[0].path().join(name)).unwrap();
    }
}

#[test]
fn a_folder_that_cannot_be_made_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = demo::run(EXTENT, &file, &|_, _| Ok(())).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}: cannot create", file.display())), "{error}");
}

#[test]
fn its_progress_may_end_it() {
    let folder = tempfile::tempdir().unwrap();
    let told = std::cell::Cell::new(0);
    let error = demo::run(EXTENT, folder.path(), &|done, of| {
        told.set(done);
        assert_eq!(of, EXTENT.fit + EXTENT.test);
        if done < 2 { Ok(()) } else { Err(Error::Usage("enough".into())) }
    });
    assert_eq!((error.unwrap_err().to_string(), told.get()), ("enough".into(), 2));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing was written");
}
