// swift-tools-version: 6.2
import PackageDescription

// The target graph: a target depends on lower rows only (ARCHITECTURE.md has one paragraph on each).

/// A C target of ours: the only kind of target that sees a C library's headers.
func cTarget(_ name: String, libraries: [String] = []) -> Target {
    .target(name: name, linkerSettings: libraries.map { .linkedLibrary($0) })
}

let system: Target.Dependency = .product(name: "SystemPackage", package: "swift-system")
let arguments: Target.Dependency = .product(name: "ArgumentParser", package: "swift-argument-parser")

let package = Package(
    name: "godwit",
    products: [
        .executable(name: "godwit", targets: ["godwit"]),
        // nbdkit loads this one; see Sources/GodwitPlugin.
        .library(name: "nbdkit-godwit-plugin", type: .dynamic, targets: ["GodwitPlugin"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.0"),
        .package(url: "https://github.com/apple/swift-system", from: "1.8.0"),
    ],
    targets: [
        // Row 0: C and nothing else, and plain values.
        cTarget("CSystemShims"),
        cTarget("CRing", libraries: ["uring"]),
        cTarget("CZstd", libraries: ["zstd"]),
        cTarget("CCrypto", libraries: ["crypto"]),
        cTarget("CExpat", libraries: ["expat"]),
        cTarget("CToml", libraries: ["stdc++"]),
        cTarget("CSSH", libraries: ["ssh"]),
        cTarget("CNBD", libraries: ["nbd"]),
        cTarget("CNBDKit"),
        cTarget("CDeviceABI"),
        .target(name: "Geometry"),

        // Row 1: raw system calls; bytes to values and back.
        .target(name: "LinuxSystem", dependencies: ["CSystemShims", "Geometry", system]),
        .target(name: "Codecs", dependencies: ["CZstd", "CCrypto", "Geometry"]),

        // Row 2: what bytes mean (no I/O), and moving bytes without knowing their meaning.
        .target(name: "ImageFormat", dependencies: ["CExpat", "Codecs", "Geometry"]),
        .target(name: "DeltaStream", dependencies: ["Codecs", "Geometry"]),
        .target(name: "ChangeTracking", dependencies: ["Geometry"]),
        .target(name: "ChunkTree", dependencies: ["Codecs", "Geometry"]),
        .target(name: "BlockIO", dependencies: ["CRing", "CSystemShims", "LinuxSystem", "Geometry", system]),
        .target(name: "DeviceControl", dependencies: ["CDeviceABI", "LinuxSystem", "Geometry", system]),
        .target(name: "Transport", dependencies: ["CSSH", "LinuxSystem", "Codecs", "Geometry", system]),

        // Row 3: the two joined.
        .target(
            name: "DiskImage",
            dependencies: [
                "ImageFormat", "BlockIO", "ChangeTracking", "DeviceControl", "LinuxSystem", "Geometry", system,
            ]),
        .target(
            name: "BackupStore", dependencies: ["ChunkTree", "Codecs", "BlockIO", "LinuxSystem", "Geometry", system]),
        .target(name: "NBDBridge", dependencies: ["CNBD", "Geometry", system]),

        // Row 4: when: planners, controllers, protocols; the control socket's requests.
        .target(name: "AgentAPI", dependencies: ["LinuxSystem", "Geometry", system]),
        .target(
            name: "Backup",
            dependencies: [
                "DiskImage", "BackupStore", "ChunkTree", "Transport", "Codecs", "BlockIO", "LinuxSystem", "Geometry",
                system,
            ]),
        .target(
            name: "Migration",
            dependencies: [
                "DiskImage", "ImageFormat", "DeltaStream", "ChangeTracking", "ChunkTree", "Transport", "NBDBridge",
                "Codecs", "BlockIO",
                "LinuxSystem", "Geometry", system,
            ]),

        // Row 5: all wiring.
        .target(
            name: "DeviceServer",
            dependencies: [
                "DiskImage", "DeviceControl", "AgentAPI", "BlockIO", "ChangeTracking", "LinuxSystem", "Geometry",
                system,
            ]),
        .target(
            name: "AgentCore",
            dependencies: [
                "Backup", "Migration", "AgentAPI", "NBDBridge", "DeviceControl", "DiskImage", "BackupStore",
                "Transport", "CToml",
                "Codecs", "BlockIO",
                "LinuxSystem", "Geometry", system,
            ]),
        // Row 6: the server of an attached disk.
        .target(
            name: "NBDServer",
            dependencies: [
                "DeviceServer", "AgentAPI", "DiskImage", "BlockIO", "Codecs", "LinuxSystem", "Geometry", system,
            ]),
        // Row 7: the commands.
        .target(
            name: "ControlCLI",
            dependencies: [
                "NBDServer", "AgentCore", "DeviceServer", "Backup", "Migration", "AgentAPI", "DiskImage", "ImageFormat",
                "BackupStore", "ChunkTree",
                "Codecs", "Transport", "BlockIO",
                "LinuxSystem", "Geometry", arguments, system,
            ]),

        // Row 8: the executables, one file each.
        .executableTarget(name: "godwit", dependencies: ["ControlCLI"]),
        .target(
            name: "GodwitPlugin",
            dependencies: ["DeviceServer", "AgentAPI", "DiskImage", "CNBDKit", "LinuxSystem", "Geometry"]),

        // Tests.
        .target(
            name: "TestSupport", dependencies: ["BlockIO", "LinuxSystem", "Geometry", system], path: "Tests/TestSupport"
        ),
        // The whole in one process, driven by a seed; see Tests/SimulationSupport.
        .target(
            name: "SimulationSupport",
            dependencies: [
                "TestSupport", "CSystemShims", "Backup", "BackupStore", "Migration", "Transport", "DiskImage",
                "BlockIO", "LinuxSystem",
                "Geometry", system,
            ], path: "Tests/SimulationSupport"),
        .executableTarget(
            name: "simulate", dependencies: ["SimulationSupport"], path: "Tests/Simulate", exclude: ["soak.sh"]),
    ],
    cxxLanguageStandard: .cxx17
)

/// Test targets: each tests the target it is named after, and may use that target's dependencies.
for name in [
    "Geometry", "LinuxSystem", "Codecs", "ImageFormat", "DeltaStream", "ChangeTracking", "ChunkTree", "BlockIO",
    "Transport", "DeviceControl",
    "DiskImage", "BackupStore", "NBDBridge", "AgentAPI", "Backup", "Migration", "DeviceServer", "AgentCore",
    "NBDServer", "ControlCLI",
] {
    guard let tested = package.targets.first(where: { $0.name == name }) else { fatalError("no target \(name)") }
    // Servers within the test's process: who writes to them can be stopped at any instruction.
    let beside: [Target.Dependency] = name == "AgentCore" ? ["DeviceServer"] : []
    package.targets.append(
        .testTarget(
            name: name + "Tests", dependencies: tested.dependencies + beside + [.byName(name: name), "TestSupport"]))
}
package.targets.append(
    .testTarget(
        name: "SimulationTests",
        dependencies: ["SimulationSupport", "TestSupport", "DiskImage", "BlockIO", "LinuxSystem", "Geometry", system]))
// The whole product against real tools, through the built binary.
package.targets.append(
    .testTarget(
        name: "EndToEndTests",
        dependencies: ["TestSupport", "NBDBridge", "BlockIO", "LinuxSystem", "Geometry", system]))

for target in package.targets
where !target.name.hasPrefix("C") || ["Codecs", "ChangeTracking", "ChunkTree", "ControlCLI"].contains(target.name)
    || target.isTest
{
    var settings: [SwiftSetting] = [
        .enableUpcomingFeature("ExistentialAny"),
        .enableUpcomingFeature("InternalImportsByDefault"),
        .enableUpcomingFeature("MemberImportVisibility"),
        .enableUpcomingFeature("NonisolatedNonsendingByDefault"),
        .enableExperimentalFeature("Lifetimes"),
        .treatAllWarnings(as: .error),
    ]
    if !target.isTest && target.path?.hasPrefix("Tests/") != true { settings.append(.strictMemorySafety()) }
    target.swiftSettings = settings
}
