import BlockIO
import LinuxSystem
import SystemPackage
import TestSupport
import Testing

/// What surrounds a command may be odd: bytes that are no text, pipes in the place of files, limits, full outputs.
@Suite(
    .enabled(if: Product.isBuilt, "the program and its plugin are not beside the tests"), .serialized,
    .timeLimit(.minutes(2)))
struct OddSurroundingsTests {
    private static let usage: CInt = 64
    private static let inputOutput: CInt = 15
    private static let failure: CInt = 1

    /// Runs a script whose `$1` is the program and `$2` the disk.
    private func shell(_ bench: DeviceBench, _ script: String) throws -> ProgramResult {
        try ChildProcess.run(
            "sh", ["-c", script, "sh", Product.program, bench.disk], environment: bench.environment,
            deadlineMilliseconds: 30_000)
    }

    @Test(
        "bytes that are no text are refused before anything is done",
        arguments: [
            #"exec "$1" disk create "$2-$(printf '\377')" --size 1M"#,
            #"exec env "GODWIT_RUN_DIR=$2-$(printf '\377')" "$1" disk attach "$2""#,
            #"exec env "HOME=$2-$(printf '\377')" "$1" status"#,
        ])
    func noText(script: String) throws {
        let bench = try DeviceBench(size: "16M")
        let result = try shell(bench, script)
        #expect(result.exitCode == Self.usage && result.errorText.contains("not UTF-8"), "\(result.errorText)")
        #expect(try LinuxFileSystem().list(bench.path).sorted() == ["disk", "mnt"])
    }

    @Test(
        "a pipe in an image's place ends every command at once", arguments: ["backup", "snapshot merge", "disk export"])
    func pipe(command: String) throws {
        let bench = try DeviceBench(size: "16M")
        try bench.godwit("store", "init", bench.folder.file("store"))
        try bench.godwit("snapshot", "create", bench.disk)
        let image = "\(bench.disk)/root.hds"
        try LinuxFileSystem().remove(image)
        try expectTool("mkfifo", image)
        let arguments =
            switch command {
            case "backup": ["backup", bench.disk, "--store", bench.folder.file("store")]
            case "disk export": ["disk", "export", bench.disk, bench.folder.file("raw")]
            default: ["snapshot", "merge", bench.disk]
            }
        let result = try ChildProcess.run(
            Product.program, arguments, environment: bench.environment, deadlineMilliseconds: 20_000)
        #expect(!result.isTimedOut && result.exitCode != 0)
        #expect(result.errorText.contains("it is a pipe"), "\(result.errorText)")
    }

    @Test func aFileAtItsLimitIsAnErrorOfThatWrite() throws {
        let bench = try DeviceBench(size: "64M")
        let target = bench.folder.file("raw")
        try bench.godwit("store", "init", bench.folder.file("store"))
        try bench.godwit("backup", bench.disk, "--store", bench.folder.file("store"))
        for script in [
            #"ulimit -f 20480; exec "$1" disk export "$2" "$2/../raw""#,
            #"ulimit -f 20480; exec "$1" restore 2 --store "$2/../store" --raw "$2/../raw""#,
        ] {
            let result = try shell(bench, script)
            #expect(result.exitCode == Self.inputOutput, "\(script): \(result.exitCode) \(result.errorText)")
            #expect(result.errorText.contains("limit on the size of a file"), "\(result.errorText)")
            #expect(try !LinuxFileSystem().exists(target))
        }
        // What it starts has the signal's own effect.
        let result = try ChildProcess.run(
            "sh", ["-c", "ulimit -f 1; head -c 1M /dev/zero > \"$1\"", "sh", bench.folder.file("large")])
        #expect(result.exitCode == 128 + 25)
    }

    @Test(.enabled(if: hasTool("qemu-io"))) func theServerOutlivesTheLimit() throws {
        let bench = try DeviceBench(size: "64M")
        let attached = try shell(bench, #"ulimit -f 20480; exec "$1" disk attach "$2" --backend user"#)
        #expect(attached.exitCode == 0, "\(attached.errorText)")
        let uri = try bench.status().uri
        let written = try runTool("qemu-io", "-f", "raw", "-c", "write -P 1 0 30M", uri)
        #expect(written.outputText.contains("failed"), "\(written.outputText)")
        #expect(try runTool("qemu-io", "-f", "raw", "-c", "read 0 1M", uri).outputText.contains("read 1048576"))
        try bench.godwit("disk", "detach", bench.disk)
    }

    @Test(
        "help that can't be written is an error", arguments: ["help", "--version", "--generate-completion-script bash"])
    func fullOutput(arguments: String) throws {
        let bench = try DeviceBench(size: "16M")
        let result = try shell(bench, "exec \"$1\" \(arguments) > /dev/full")
        #expect(result.exitCode == Self.inputOutput && !result.errorText.isEmpty)
    }

    @Test("a disk's server keeps nothing in use that its caller has open, or where it is", arguments: [true, false])
    func daemons(hasDevice: Bool) throws {
        guard !hasDevice || (canMountLoop && hasTool("nbdfuse")) else { return }
        let bench = try DeviceBench(size: "16M")
        let here = bench.folder.file("here")
        try LinuxFileSystem().createFolder(here)
        // The run folder's path is a relative one, too.
        let script = #"cd "$2/../here" && exec 9> lock && flock -n 9 && GODWIT_RUN_DIR=../run "$1" disk attach ../disk"#
        let result = try shell(
            bench,
            "\(script) --backend user \(hasDevice ? "--device" : "") && exec 9>&- && flock -n lock true")
        #expect(result.exitCode == 0, "\(result.exitCode) \(result.errorText)")
        for name in try LinuxFileSystem().list("/proc") {
            let place = (try? LinuxFileSystem().resolve("/proc/\(name)/cwd")) ?? ""
            #expect(!place.hasPrefix(bench.path), "\(name)")
        }
        try bench.godwit("disk", "detach", bench.disk)
    }

    @Test("an argument that is empty is refused: mostly a variable of a script that nobody has set")
    func emptyArgument() throws {
        let bench = try DeviceBench(size: "16M")
        let store = bench.folder.file("store")
        try bench.godwit("store", "init", store)
        try bench.godwit("backup", bench.disk, "--store", store)
        for arguments in [
            ["restore", "", "--store", store, "--raw", bench.folder.file("raw")],
            ["disk", "create", "", "--size", "1M"], ["points", "--store="], ["backup", bench.disk, "--store", ""],
        ] {
            let refused = try bench.run(arguments)
            #expect(refused.exitCode == Self.usage && refused.errorText.contains("is empty"), "\(refused.errorText)")
        }
        #expect(try !LinuxFileSystem().exists(bench.folder.file("raw")))
    }

    /// What is opened next would be written to as if it were one of them.
    @Test func aClosedStandardStreamIsOpenedOnNothing() throws {
        let bench = try DeviceBench(size: "16M")
        let words = try Pipe()
        let answers = try Pipe()
        let agent = try ChildProcess(
            "sh", ["-c", "exec \"$1\" agent --stdio 2>&-", "sh", Product.program], environment: bench.environment,
            input: .descriptor(words.reading.number), output: .descriptor(answers.writing.number))
        // It greets when all is set up.
        #expect(try !answers.reading.readSome(upTo: 16).isEmpty)
        #expect(try LinuxFileSystem().resolve("/proc/\(agent.identifier)/fd/2") == "/dev/null")
        try agent.send(Signal.kill)
        _ = try agent.wait()
        withExtendedLifetime(words) {}
        // Nobody got the report.
        let result = try shell(bench, #"exec "$1" disk info "$2" >&-"#)
        #expect(result.exitCode == Self.inputOutput, "\(result.errorText)")
    }

    @Test func aFailedGuardSaysNothingOdd() throws {
        let bench = try DeviceBench(size: "16M")
        let result = try bench.run(["internal-freeze-guard", "--deadline", "1s", bench.folder.file("none")])
        #expect(result.exitCode == Self.failure && !result.errorText.contains("ExitCode"), "\(result.errorText)")
    }
}
