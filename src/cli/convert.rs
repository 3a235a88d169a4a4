//! `ddu convert`: a trained checkpoint in, a model file out, and a summary of what was found,
//! assumed and left out.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use ddu::Error;
use ddu::data::{Reads, read_class_names};
use ddu::error::line;
use ddu::import::{Imported, Options, families, import};
use ddu::model::{Backbone, Config};

/// Convert a trained DeepLab checkpoint into a model
///
/// Reads PyTorch files (zip and legacy), .safetensors and hub folders of
/// segmentation-models-pytorch. Nothing in a checkpoint is ever executed. Family, backbone, widths
/// and classes are detected; the output stride and the ASPP rates, which the weights do not say, are
/// the family's defaults unless stated, with a warning.
#[derive(clap::Args)]
pub struct Args {
    /// PyTorch file, .safetensors, or folder with config.json and model.safetensors
    checkpoint: PathBuf,
    /// Whose code trained it [default: detected]
    #[arg(long, value_parser = families())]
    family: Option<String>,
    /// ResNet of the network [default: detected]
    #[arg(long, value_parser = backbone())]
    backbone: Option<Backbone>,
    /// Stride of the backbone's last features, 8 or 16 [default: as stated in the file, else the family's]
    #[arg(long, value_name = "STRIDE", value_parser = stride())]
    output_stride: Option<usize>,
    /// Dilations of the three ASPP branches [default: as stated in the file, else the family's]
    #[arg(long, value_name = "A,B,C", value_delimiter = ',')]
    atrous_rates: Option<Vec<usize>>,
    /// Text file with one class name per line, in index order [default: CHECKPOINT's name with
    /// .classes.txt, or classes.txt, beside it]
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,
    /// Model file to write
    #[arg(short, long, value_name = "MODEL")]
    output: PathBuf,
    /// Overwrite an existing model file
    #[arg(long)]
    force: bool,
}

fn backbone() -> impl TypedValueParser<Value = Backbone> {
    PossibleValuesParser::new(Backbone::ALL.map(Backbone::name))
        .map(|name| Backbone::ALL.into_iter().find(|b| b.name() == name).expect("a listed name"))
}

fn stride() -> impl TypedValueParser<Value = usize> {
    PossibleValuesParser::new(["8", "16"]).map(|text| text.parse().expect("a listed number"))
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let classes_path = args.classes.clone().or_else(|| default_classes(&args.checkpoint));
    check_output(&args, classes_path.as_deref())?;
    if let (None, Some(path)) = (&args.classes, &classes_path) {
        super::note(format!("class names from {}", path.display()));
    }
    let classes = classes_path.as_deref().map(read_class_names).transpose()?;
    let options = Options {
        family: args.family,
        backbone: args.backbone,
        output_stride: args.output_stride,
        atrous_rates: args.atrous_rates,
        classes,
    };
    let imported = import(&args.checkpoint, &options)?;
    imported.model.save(&args.output)?;
    if !imported.assumed.is_empty() {
        super::warn(format!(
            "{}: assumed {}, which the file does not state; a network trained with others gives poor maps",
            args.checkpoint.display(),
            imported.assumed.join(" and ")
        ));
    }
    super::print(&summary(&args.checkpoint, &args.output, &imported))?;
    Ok(ExitCode::SUCCESS)
}

/// `X.classes.txt` or else `classes.txt` beside `X.pth`; `classes.txt` in a hub folder.
fn default_classes(checkpoint: &Path) -> Option<PathBuf> {
    let candidates = match checkpoint.is_dir() {
        true => vec![checkpoint.join("classes.txt")],
        false => {
            vec![checkpoint.with_extension("classes.txt"), checkpoint.with_file_name("classes.txt")]
        }
    };
    candidates.into_iter().find(|path| path.is_file())
}

/// Before any work: an existing output needs `--force`, and is never a file that is read.
fn check_output(args: &Args, classes: Option<&Path>) -> Result<(), Error> {
    let output = args.output.display();
    // The checkpoint may be a folder of these; smp's config.json lies beside a file.
    let checkpoint = &args.checkpoint;
    let hub = ["model.safetensors", "config.json"].map(|name| checkpoint.join(name));
    let config = checkpoint.with_file_name("config.json");
    let mut reads = Reads::new([&**checkpoint, &hub[0], &hub[1], &config]);
    reads.extend(classes);
    if args.output.is_dir() {
        return Err(Error::Usage(format!("{output}: is a folder; name the model file to write")));
    }
    super::check_output(&reads, &args.output, args.force)
}

fn summary(checkpoint: &Path, output: &Path, imported: &Imported) -> String {
    let config = imported.model.config();
    let version = if config.decoder.is_some() { "v3+" } else { "v3" };
    let mut lines = vec![
        format!(
            "{}: {} DeepLab-{version}, {}",
            checkpoint.display(),
            config.family,
            config.backbone
        ),
        format!("  widths        {}", widths(config)),
        format!("  classes       {}", classes(config)),
        format!(
            "  output stride {}, ASPP rates {}",
            config.output_stride,
            list(&config.aspp_rates)
        ),
    ];
    lines.extend(imported.assumed.iter().map(|what| format!("  assumed       {what}")));
    lines.extend(
        imported.hub_config.iter().map(|path| format!("  read          {}", path.display())),
    );
    if !imported.nested.is_empty() {
        lines.push(format!("  found under   {}", imported.nested.join(" ")));
    }
    if imported.folded > 0 {
        lines.push(format!("  folded        spectral norm of {} convolutions", imported.folded));
    }
    if !imported.ignored.is_empty() {
        lines.push(format!("  ignored       {}", imported.ignored.join(", ")));
    }
    let weights: usize = imported.model.tensors().values().map(|t| t.data.len()).sum();
    lines.push(format!("  weights       {weights}, sha256 {}", imported.model.hash()));
    lines.push(format!("wrote {}", output.display()));
    // Names from outside are made fit for a terminal.
    lines.iter().map(|text| line(text) + "\n").collect()
}

fn list(numbers: &[usize]) -> String {
    numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

fn widths(config: &Config) -> String {
    let mut text =
        format!("stem {}, stages {}", config.stem_channels, list(&config.stage_channels));
    if config.backbone.bottleneck() {
        text += &format!(" ({} inside)", list(&config.stage_width));
    }
    text += &format!(", ASPP {}", config.aspp_channels);
    if let Some(decoder) = &config.decoder {
        text += &format!(", low-level {}", decoder.low_level_channels);
    }
    text + &format!(", features {}", config.feature_channels())
}

fn classes(config: &Config) -> String {
    let count = config.classes.len();
    match config.has_class_names() {
        true => format!("{count}: {}", config.classes.join(", ")),
        false => format!("{count}, not named (--classes FILE names them)"),
    }
}
