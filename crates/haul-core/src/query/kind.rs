//! Types of files as `type:` names them, told from the extension alone.

use crate::wire::index::HitKind;

/// A type that `type:` can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileType {
    /// Any regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// Moving pictures.
    Video,
    /// Sound.
    Audio,
    /// Pictures.
    Image,
    /// Texts to read.
    Document,
    /// Packed files and packages.
    Archive,
    /// Images of disks and systems.
    Disk,
    /// Source code and scripts.
    Code,
    /// Weights of machine learning models.
    Model,
    /// Tables, arrays and other data sets.
    Data,
}

impl FileType {
    /// All names, for messages.
    pub const NAMES: &str = "file, dir, link, video, audio, image, document, archive, disk, code, model, data";

    /// The type of this name; an extension such as `gguf` names none.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "file" => Self::File,
            "dir" | "directory" | "folder" => Self::Directory,
            "link" | "symlink" => Self::Link,
            "video" => Self::Video,
            "audio" | "music" => Self::Audio,
            "image" | "picture" | "photo" => Self::Image,
            "document" | "doc" | "text" => Self::Document,
            "archive" => Self::Archive,
            "disk" => Self::Disk,
            "code" | "source" => Self::Code,
            "model" => Self::Model,
            "data" => Self::Data,
            _ => return None,
        })
    }

    /// Whether an entry of this kind and folded name is of this type.
    pub fn fits(self, kind: HitKind, folded_name: &str) -> bool {
        match self {
            Self::Directory => kind == HitKind::Directory,
            Self::Link => kind == HitKind::Symlink,
            Self::File => kind == HitKind::File,
            _ => kind == HitKind::File && extension(folded_name).is_some_and(|ext| self.extensions().contains(&ext)),
        }
    }

    /// The extensions of which a name of this type must have one; none for kinds of entries.
    pub fn needs_extension(self) -> Option<&'static [&'static str]> {
        let extensions = self.extensions();
        (!extensions.is_empty()).then_some(extensions)
    }

    fn extensions(self) -> &'static [&'static str] {
        match self {
            Self::File | Self::Directory | Self::Link => &[],
            Self::Video => &[
                "mp4", "mkv", "avi", "mov", "webm", "m4v", "mpg", "mpeg", "wmv", "flv", "m2ts", "mts", "3gp", "ogv",
                "vob",
            ],
            Self::Audio => {
                &["mp3", "flac", "ogg", "opus", "wav", "m4a", "aac", "wma", "aiff", "aif", "alac", "mid", "oga", "ape"]
            }
            Self::Image => &[
                "jpg", "jpeg", "png", "gif", "webp", "svg", "tif", "tiff", "bmp", "heic", "heif", "avif", "raw", "cr2",
                "nef", "dng", "psd", "xcf", "ico", "jxl",
            ],
            Self::Document => &[
                "pdf", "txt", "md", "doc", "docx", "odt", "rtf", "tex", "epub", "mobi", "xls", "xlsx", "ods", "ppt",
                "pptx", "odp", "html", "htm", "djvu", "ps", "rst", "org",
            ],
            Self::Archive => &[
                "zip", "tar", "gz", "tgz", "bz2", "xz", "zst", "7z", "rar", "lz4", "lzma", "tbz2", "txz", "deb", "rpm",
                "jar", "whl", "apk", "cpio", "br",
            ],
            Self::Disk => &["iso", "img", "qcow2", "vmdk", "vdi", "vhd", "vhdx", "dmg", "raw", "ova", "squashfs"],
            Self::Code => &[
                "rs", "c", "h", "cc", "cpp", "hpp", "cxx", "py", "js", "ts", "tsx", "jsx", "java", "go", "rb", "php",
                "sh", "bash", "pl", "pm", "lua", "kt", "swift", "scala", "hs", "ml", "r", "jl", "cs", "m", "asm", "s",
                "sql", "vue", "zig", "el", "lisp", "f90", "ipynb", "css", "cmake",
            ],
            Self::Model => &[
                "gguf",
                "ggml",
                "safetensors",
                "onnx",
                "pt",
                "pth",
                "ckpt",
                "tflite",
                "h5",
                "keras",
                "mlmodel",
                "pb",
                "llamafile",
            ],
            Self::Data => &[
                "csv", "tsv", "json", "jsonl", "ndjson", "xml", "yaml", "yml", "parquet", "arrow", "feather", "npy",
                "npz", "hdf5", "h5", "db", "sqlite", "sqlite3", "mat", "rds", "fits", "nc", "avro", "orc", "log",
            ],
        }
    }
}

/// What stands behind the last dot of a folded name, unless the dot comes first.
fn extension(folded_name: &str) -> Option<&str> {
    folded_name.rsplit_once('.').filter(|(stem, _)| !stem.is_empty()).map(|(_, extension)| extension)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_come_from_kind_and_extension() {
        assert!(FileType::Video.fits(HitKind::File, "film.mkv"));
        assert!(!FileType::Video.fits(HitKind::Directory, "film.mkv"));
        assert!(!FileType::Video.fits(HitKind::File, ".mkv"));
        assert!(FileType::Directory.fits(HitKind::Directory, "x"));
        assert!(FileType::Model.fits(HitKind::File, "llama-70b.q4.gguf"));
        for name in FileType::NAMES.split(", ") {
            assert!(FileType::from_name(name).is_some(), "{name}");
        }
    }
}
