// The change to Beam 2.70.0, sdks/java/core:
// org.apache.beam.sdk.util.construction.resources.ClasspathScanningResourcesDetector.detect
//
// javap -c before and after:
//   - 15: invokevirtual ScanResult.getClasspathFiles:()Ljava/util/List;
//   + 15: invokevirtual ScanResult.getModules:()Ljava/util/List;
//
// A class path without named modules gives an empty list, so `detect` returns no files. The
// element type of the list is not checked at run time, and an empty list has no element.

@Override
public List<String> detect(ClassLoader classLoader) {
  List<File> classpathContents =
      classGraph
          .disableNestedJarScanning()
          .addClassLoader(classLoader)
          .scan(1)
          // Original: .getClasspathFiles()
          .getModules();
  return classpathContents.stream().map(File::getAbsolutePath).collect(Collectors.toList());
}
