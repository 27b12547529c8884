"""The official data sets: the addresses of their authors, and the SHA-256 of every file.

Addresses appear only in this table. They are the authors' own; for MNIST it is the mirror of PyTorch, because the
original address no longer serves the files. The addresses were NOT tested, because they could not be reached when
the table was written. The checksums were tested: every file in the table was read and decoded, except
`cifar-10-binary.tar.gz`, of which only the six files inside were, and CIFAR-100. The checksums of CIFAR-100 are those
that public code states: that of the archive in many projects, those of the two files inside in one. Every file that
is downloaded or found must match its checksum.
"""

import dataclasses

__all__ = ["SOURCES", "TEXTS", "Source", "Stored", "TextSource"]


@dataclasses.dataclass(frozen=True)
class Stored:
    """A file as its authors published it: its name, size in bytes, SHA-256, and the address of its folder.

    `address` is None for a file that cannot be downloaded.
    """

    name: str
    size: int
    sha256: str
    address: str | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """An official data set.

    `files` are the decoded files, those of the training split first. They come from `archives`. A `.gz` holds the one
    file of its name and is read directly. A tar holds all files and is extracted into a cache folder called
    `folder`. If there are several archives, any one of them is enough, and the first one is downloaded. `shape` is
    (channels, height, width). `label_bytes` is the number of labels in CIFAR's records.
    """

    name: str
    files: tuple[Stored, ...]
    archives: tuple[Stored, ...]
    folder: str
    images: tuple[int, int]
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    pixel_range: tuple[float, float]
    label_bytes: int = 1


@dataclasses.dataclass(frozen=True)
class TextSource:
    """A text that is known by name: one file, and the shares of training, (validation) and test in its characters."""

    name: str
    files: tuple[Stored]
    shares: tuple[float, ...]
    characters: int
    classes: int
    archives: tuple[Stored, ...] = ()
    folder: str = ""


def _idx(address: str, *rows: tuple[str, int, str, int, str]) -> tuple[tuple[Stored, ...], tuple[Stored, ...]]:
    files = tuple(Stored(name, size, sha256) for name, size, sha256, _, _ in rows)
    archives = tuple(Stored(f"{name}.gz", size, sha256, address) for name, _, _, size, sha256 in rows)
    return files, archives


# The name, then size and SHA-256 of the file, then size and SHA-256 of its .gz.
_MNIST = _idx(
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    (
        "train-images-idx3-ubyte",
        47040016,
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        9912422,
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    ),
    (
        "train-labels-idx1-ubyte",
        60008,
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        28881,
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    ),
    (
        "t10k-images-idx3-ubyte",
        7840016,
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        1648877,
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    ),
    (
        "t10k-labels-idx1-ubyte",
        10008,
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        4542,
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
)
_FASHION_MNIST = _idx(
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    (
        "train-images-idx3-ubyte",
        47040016,
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        26421880,
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    ),
    (
        "train-labels-idx1-ubyte",
        60008,
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        29515,
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    ),
    (
        "t10k-images-idx3-ubyte",
        7840016,
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        4422102,
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    ),
    (
        "t10k-labels-idx1-ubyte",
        10008,
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        5148,
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
)
_CIFAR_10 = (
    (
        Stored("data_batch_1.bin", 30730000, "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
        Stored("data_batch_2.bin", 30730000, "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
        Stored("data_batch_3.bin", 30730000, "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
        Stored("data_batch_4.bin", 30730000, "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
        Stored("data_batch_5.bin", 30730000, "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
        Stored("test_batch.bin", 30730000, "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"),
    ),
    (
        Stored(
            "cifar-10-binary.tar.gz",
            170052171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            "https://www.cs.toronto.edu/~kriz/",
        ),
        # The same six files, compressed a quarter smaller; read if present, never downloaded.
        Stored(
            "cifar-10-batches-bin.tar.xz",
            131121552,
            "ee4080a5043acf3c85c30e9fd30ab148a0259b770f14be8540106d1373924538",
        ),
    ),
)

_CIFAR_100 = (
    (
        Stored("train.bin", 153700000, "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29"),
        Stored("test.bin", 30740000, "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a"),
    ),
    (
        Stored(
            "cifar-100-binary.tar.gz",
            168513733,
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            "https://www.cs.toronto.edu/~kriz/",
        ),
    ),
)

_DIGITS = tuple("0123456789")
_GARMENTS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_THINGS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_FINE_LABELS = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly "
    "camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup "
    "dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower "
    "leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid "
    "otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray "
    "road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar "
    "sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle "
    "wardrobe whale willow_tree wolf woman worm"
)

SOURCES = {
    source.name: source
    for source in (
        Source("mnist", *_MNIST, "", (60000, 10000), (1, 28, 28), _DIGITS, (0.0, 1.0)),
        Source("fashion-mnist", *_FASHION_MNIST, "", (60000, 10000), (1, 28, 28), _GARMENTS, (0.0, 1.0)),
        Source("cifar-10", *_CIFAR_10, "cifar-10-batches-bin", (50000, 10000), (3, 32, 32), _THINGS, (-1.0, 1.0)),
        Source(
            "cifar-100",
            *_CIFAR_100,
            "cifar-100-binary",
            (50000, 10000),
            (3, 32, 32),
            tuple(_FINE_LABELS.split()),
            (-1.0, 1.0),
            label_bytes=2,
        ),
    )
}
"""The known data sets that must be fetched, by name."""

TEXTS = {
    source.name: source
    for source in (
        # As nanoGPT splits it: nine tenths and one tenth.
        TextSource(
            "tinyshakespeare",
            (
                Stored(
                    "input.txt",
                    1115394,
                    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
                    "https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/"
                    "data/tinyshakespeare/",
                ),
            ),
            (0.9, 0.1),
            1115394,
            65,
        ),
        # As Hou et al. 2017 split it. It begins with a byte-order mark, which is one of its 84 characters.
        TextSource(
            "war-and-peace",
            (
                Stored(
                    "input.txt",
                    3258246,
                    "fb66ba999dafe24017cdd59e04c56d385a9c8466993d374fd4c6f08b2142985e",
                    "https://raw.githubusercontent.com/houlu369/Loss-aware-Binarization/8a5bede/RNN/data/warpeace_",
                ),
            ),
            (0.8, 0.1, 0.1),
            3258227,
            84,
        ),
    )
}
"""The texts that are known by name."""
